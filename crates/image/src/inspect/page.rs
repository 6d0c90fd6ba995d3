//! An image told as one page of HTML that needs nothing else: no network, no script, no file beside it.
//!
//! It says what [`inspect`](super::inspect()) says, and draws the memory of each process. As there, no contents of memory, of files or of what
//! is in flight are in it: names, numbers and sizes only. What a program chose (paths, names, command lines) is escaped.

use std::fmt::Write as _;

use brant_base::Addr;

use super::text::{readable, size, utc};
use super::{Inspection, ProcessLine, map, windows};
use crate::Image;
use crate::model::*;

/// The page.
pub fn page(image: &Image) -> String {
    let inspection = super::inspect(image);
    let title = match &inspection.job {
        Some(job) => readable(job.as_bytes()),
        None => inspection.command.join(" "),
    };
    let mut body = format!("<h1>{}</h1>{}", escape(&title), facts(&inspection));
    if let Some(program) = &inspection.windows {
        let _ = write!(body, "<pre>{}</pre>", escape(&windows::Told(program).to_string()));
    } else {
        body.push_str(&tree(&inspection));
        for process in &inspection.processes {
            body.push_str(&one(image, process));
        }
        body.push_str(&list(
            "Files that travel",
            inspection
                .carried
                .iter()
                .map(|file| format!("{}, {}, {}", file.path, size(file.bytes), file.purpose)),
        ));
    }
    body.push_str(&list("What a restore needs from its host", inspection.needs.iter().cloned()));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{}: image</title><style>{STYLE}</style></head><body><main>{body}\
         <p class=\"faint\">Written by brant image inspect --html. Contents of memory are not in this page; names and paths are.</p>\
         </main></body></html>\n",
        escape(&title)
    )
}

/// Text between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

fn facts(inspection: &Inspection) -> String {
    let memory = &inspection.memory;
    let system = if inspection.windows.is_some() { "Windows" } else { "Linux" };
    let rows = [
        ("command", inspection.command.join(" ")),
        ("image", inspection.summary.id.to_string()),
        ("taken", utc(inspection.created_ns)),
        (
            "on",
            format!(
                "{}, {system} {}, {}",
                inspection.host_name, inspection.kernel_release, inspection.machine
            ),
        ),
        ("size", size(inspection.summary.bytes)),
        (
            "memory",
            format!(
                "{} private, {} shared, {} of files; {} more are known to be zero",
                size(memory.private_bytes),
                size(memory.shared_bytes),
                size(memory.file_bytes),
                size(memory.zero_bytes)
            ),
        ),
    ];
    let rows: String =
        rows.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escape(value))).collect();
    format!("<dl>{rows}</dl>")
}

fn tree(inspection: &Inspection) -> String {
    let line = |process: &ProcessLine| {
        format!(
            "<li style=\"margin-left:{}em\"><a href=\"#p{}\"><b>{}</b> {}</a> <span class=\"faint\">{}, {}</span></li>",
            1.6 * process.depth.min(20) as f64,
            process.pid,
            process.pid,
            escape(&process.name),
            escape(&process.state),
            count(process.threads.len(), "thread")
        )
    };
    let lines: String = inspection.processes.iter().map(line).collect();
    format!("<h2>Processes</h2><ul class=\"tree\">{lines}</ul>")
}

/// A process with its threads, descriptors and memory.
fn one(image: &Image, line: &ProcessLine) -> String {
    let checkpoint = image.checkpoint();
    let process = checkpoint.processes.iter().find(|process| process.pid == line.pid);
    let mut section = format!(
        "<section id=\"p{}\"><h2>{} <span>{}</span></h2><p>{}; parent {}, group {}, session {}",
        line.pid,
        line.pid,
        escape(&line.name),
        escape(&line.state),
        line.ppid,
        line.pgid,
        line.sid
    );
    if let (Some(executable), Some(cwd)) = (&line.executable, &line.cwd) {
        let _ = write!(
            section,
            ". <code>{}</code> in <code>{}</code>; {} mapped, {} stored",
            escape(executable),
            escape(cwd),
            size(line.mapped_bytes),
            size(line.stored_bytes)
        );
    }
    section.push_str(".</p>");
    let Some((process, body)) = process.and_then(|process| Some((process, process.body.as_ref()?))) else {
        return section + "</section>";
    };
    section.push_str(&threads(checkpoint, line, body));
    section.push_str(&descriptors(line));
    let _ = write!(section, "<h3>Memory</h3>{}", map::memory_map(image, process, body));
    section + "</section>"
}

fn threads(checkpoint: &Checkpoint, line: &ProcessLine, body: &ProcessBody) -> String {
    let row = |(told, thread): (&super::ThreadLine, &Thread)| {
        let at = thread.registers.rip;
        let mapping = body.memory.mappings.iter().find(|mapping| mapping.range.contains(Addr(at)));
        let place =
            mapping.map_or("code that is not mapped".to_owned(), |mapping| map::behind(checkpoint, mapping));
        let waiting = told.waiting.as_ref().map_or(String::new(), |what| format!(", in {what}"));
        format!(
            "<tr><td>{}</td><td>{}</td><td>in {}{}</td></tr>",
            told.tid,
            escape(&told.name),
            escape(&place),
            escape(&waiting)
        )
    };
    let rows: String = line.threads.iter().zip(&body.threads).map(row).collect();
    format!(
        "<h3>Threads</h3><div class=\"scroll\"><table><tr><th>number</th><th>name</th><th>what it was doing</th></tr>{rows}</table></div>"
    )
}

fn descriptors(line: &ProcessLine) -> String {
    let row = |entry: &super::DescriptorLine| {
        let closed = if entry.close_on_exec { "closed on exec" } else { "" };
        format!(
            "<tr><td>{}</td><td>{}</td><td class=\"faint\">{closed}</td></tr>",
            entry.number,
            escape(&entry.what)
        )
    };
    let rows: String = line.descriptors.iter().map(row).collect();
    format!("<h3>Descriptors and connections</h3><div class=\"scroll\"><table>{rows}</table></div>")
}

fn list(title: &str, lines: impl Iterator<Item = String>) -> String {
    let lines: String = lines.map(|line| format!("<li>{}</li>", escape(&line))).collect();
    if lines.is_empty() { String::new() } else { format!("<h2>{title}</h2><ul>{lines}</ul>") }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

const STYLE: &str = "
:root { --paper: #fbfaf6; --panel: #f1efe8; --ink: #20262b; --faint: #5f6a70; --rule: #dcd8cc; --accent: #0f5f63;
  --private: #7fa8dc; --shared: #b597d6; --file: #d8bb84; --kernel: #a9b0ad; --stored: #2f6d4a; --zero: #cfd8d2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181b; --panel: #1c2226; --ink: #d9dcdc; --faint: #98a4a8; --rule: #333b40; --accent: #6fc9c1;
  --private: #3f6ea8; --shared: #7d5ba6; --file: #94713a; --kernel: #5d6663; --stored: #7fd0a0; --zero: #3a4540; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, 'DejaVu Sans', sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { margin: 0 0 .5em; overflow-wrap: anywhere; } h2 { margin: 1.8em 0 .4em; } h2 span { font-weight: 400; } h3 { margin: 1.2em 0 .3em; font-size: 1rem; }
section { border-top: 1px solid var(--rule); } a { color: var(--accent); text-decoration: none; } .faint { color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; } dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
ul { padding-left: 1.2em; } .tree { list-style: none; padding: 0; } li { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; } td, th { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
svg { display: block; width: 100%; min-width: 560px; background: var(--panel); padding: 8px; border-radius: 8px; } svg text { font: 11px ui-monospace, monospace; fill: var(--faint); }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 5px 0 14px; } .legend i:first-child { margin-left: 0; }
.m-private { fill: var(--private); background: var(--private); } .m-shared { fill: var(--shared); background: var(--shared); } .m-file { fill: var(--file); background: var(--file); }
.m-kernel { fill: var(--kernel); background: var(--kernel); } .m-stored { fill: var(--stored); background: var(--stored); } .m-zero { fill: var(--zero); background: var(--zero); }
summary { cursor: pointer; } code { font-family: ui-monospace, monospace; font-size: .92em; }
";
