//! The site in a real browser, headless Chromium: the tour's search, and every kind of page on a desk and on a phone.
//!
//! `cargo xtask docs` builds the site and runs this; `BRANT_SITE` names another one.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Pages of every kind.
const PAGES: [&str; 13] = [
    "index.html",
    "guide/index.html",
    "guide/ten-minutes.html",
    "guide/move.html",
    "guide/pictures.html",
    "guide/commands.html",
    "guide/support.html",
    "guide/format.html",
    "tour/index.html",
    "tour/crates/capture/src/freeze.rs.html",
    "tour/crates/capture/src/freeze.rs.uses.html",
    "tour/names/f.html",
    "api/index.html",
];

/// Pixels: a desk's window and a phone's.
const WIDTHS: [u32; 2] = [1280, 390];

fn site() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/site");
    let site = std::env::var_os("BRANT_SITE").map_or_else(built, PathBuf::from);
    assert!(
        site.join("index.html").is_file(),
        "there is no site in {}: cargo xtask docs makes it",
        site.display()
    );
    site.canonicalize().unwrap()
}

/// A folder that is removed again.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("brant-browser-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a page has become once its scripts have run. `None` without a browser, which is told.
fn shown(address: &str) -> Option<String> {
    let profile = Folder::new(&format!("profile-{}", address.len()));
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg(format!("--user-data-dir={}", profile.0.display()));
    command.args([
        "--window-size=1400,900",
        "--virtual-time-budget=60000",
        "--timeout=120000",
        "--dump-dom",
        address,
    ]);
    match command.stderr(Stdio::null()).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "chromium does not start: {error}");
            println!("skipped for want of: chromium");
            None
        }
    }
}

/// The site over HTTP, by the tool itself: pages may look into each other then.
struct Served(Child, String);

impl Served {
    fn new(folder: &Path) -> Served {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brant-site"));
        command.arg("serve").arg("--site").arg(folder).args(["--port", "0"]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the tool starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split(' ').next().unwrap().to_owned();
        Served(child, address)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_search_finds_freeze_from_the_file_system() {
    let Some(page) = shown(&format!("file://{}/tour/index.html?q=freeze", site().display())) else { return };
    let (_, found) = page.split_once("<ol id=\"found\">").expect("the search has a list");
    let found = found.split("</ol>").next().unwrap();
    let first: Vec<&str> = found.split("<li>").skip(1).take(3).collect();
    assert!(
        first
            .iter()
            .any(|line| line.contains("crates/capture/src/freeze.rs.html#L") && line.contains(">freeze</a>")),
        "{found}"
    );
}

#[test]
fn no_page_is_wider_than_its_window() {
    let site = site();
    let folder = Folder::new("pages");
    std::os::unix::fs::symlink(&site, folder.0.join("site")).unwrap();
    let script = r#"
      const report = document.getElementById("report");
      async function look(path, width) {
        const frame = document.createElement("iframe");
        frame.width = width; frame.height = 900; frame.src = "site/" + path;
        document.body.append(frame);
        await new Promise(done => frame.onload = done);
        await new Promise(done => setTimeout(done, 200));
        const page = frame.contentDocument;
        const line = document.createElement("li");
        const text = page.body ? page.body.innerText.length : 0;
        line.textContent = path + " " + width + " over " + (page.documentElement.scrollWidth - width) + " text " + text;
        report.append(line);
        frame.remove();
      }
      (async () => {
        for (const width of WIDTHS) for (const path of PAGES) await look(path, width);
        document.title = "done";
      })();"#;
    let script = script.replace("WIDTHS", &format!("{WIDTHS:?}")).replace("PAGES", &format!("{PAGES:?}"));
    std::fs::write(
        folder.0.join("look.html"),
        format!(
            "<title>looking</title><body style=\"margin:0\"><ol id=\"report\"></ol><script>{script}</script>"
        ),
    )
    .unwrap();
    let served = Served::new(&folder.0);
    let Some(page) = shown(&format!("{}look.html", served.1)) else { return };
    assert!(page.contains("<title>done</title>"), "{page}");
    let (_, report) = page.split_once("<ol id=\"report\">").unwrap();
    let lines: Vec<&str> =
        report.split("<li>").skip(1).map(|line| line.split("</li>").next().unwrap()).collect();
    assert_eq!(lines.len(), PAGES.len() * WIDTHS.len());
    let number = |line: &str, word: &str| -> i64 {
        let (_, rest) = line.split_once(&format!(" {word} ")).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let wide: Vec<&&str> = lines.iter().filter(|line| number(line, "over") > 0).collect();
    assert!(wide.is_empty(), "wider than their window: {wide:?}");
    let empty: Vec<&&str> = lines.iter().filter(|line| number(line, "text") < 200).collect();
    assert!(empty.is_empty(), "without text: {empty:?}");
}

/// Reading needs no script: the text, the pictures and the way to other pages are in the pages themselves.
#[test]
fn pages_are_read_without_javascript() {
    let read = |name: &str| std::fs::read_to_string(site().join(name)).unwrap();
    let guide = read("guide/ten-minutes.html");
    assert!(guide.contains("A tour of ten minutes") && guide.contains("brant checkpoint"));
    assert!(guide.contains("<noscript>") && read("guide/toc.html").contains("preemption.html"));
    let pictures = read("guide/pictures.html");
    let drawn = pictures
        .split("<figure class=\"picture\">")
        .skip(1)
        .filter(|figure| figure.contains("class=\"k-run\"") || figure.contains("class=\"zoom\""));
    assert!(drawn.count() >= 5);
    let tour = read("tour/crates/capture/src/freeze.rs.html");
    assert!(tour.contains("class=\"def\"") && tour.contains("<div class=\"text\">"));
    for page in PAGES.iter().filter(|page| page.starts_with("tour/") || page.ends_with("uses.html")) {
        let text = read(page);
        let remote = text
            .split("href=\"http")
            .skip(1)
            .filter(|rest| !rest.starts_with("s://doc.rust-lang.org"))
            .count();
        assert_eq!((remote, text.matches("src=\"http").count()), (0, 0), "{page}");
    }
}
