//! Words for states, signals, times and command lines.

use nix::sys::signal::Signal;

use crate::job::{Job, Moved, State, unix_ms};

/// The exit code that a shell would give for a raw wait status: the program's own, or 128 + signal.
pub(crate) fn wait_status(status: i32) -> u8 {
    match status & 0x7f {
        0 => (status >> 8) as u8,
        signal => 128 + signal as u8,
    }
}

/// "SIGTERM"; real-time signals by number.
pub(crate) fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_string())
}

/// "exited (0)" or "killed (SIGTERM)".
fn end(status: i32) -> String {
    match status & 0x7f {
        0 => format!("exited ({})", wait_status(status)),
        signal => format!("killed ({})", signal_name(signal)),
    }
}

/// What `job` is doing, as `ps` shows it.
pub(crate) fn state(job: &Job) -> String {
    match job.state {
        State::Starting => "starting".to_string(),
        State::Running => "running".to_string(),
        State::Stopped => "stopped".to_string(),
        State::Orphans(ended) => format!("{}, others run", end(ended.wait_status)),
        State::Exited(ended) if moved(job).is_some() => {
            format!("moved to {} {} ago", harmless(&moved(job).unwrap_or_default()), ago(ended.ended_unix_ms))
        }
        State::Exited(ended) => format!("{} {} ago", end(ended.wait_status), ago(ended.ended_unix_ms)),
        State::Unkept => "running, keeper lost".to_string(),
        State::Lost => "lost".to_string(),
    }
}

/// The host that a job was given to.
fn moved(job: &Job) -> Option<String> {
    Moved::read(&job.folder).filter(|moved| moved.given).map(|moved| moved.host)
}

/// How long ago a time was: "5 s", "12 min", "3 h", "2 d".
pub(crate) fn ago(then_unix_ms: u64) -> String {
    let seconds = unix_ms().saturating_sub(then_unix_ms) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long something took.
pub(crate) fn span(time: std::time::Duration) -> String {
    match time.as_millis() {
        ms @ 0..=999 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// A command as one could type it. Control characters are shown as escapes.
pub(crate) fn command_line(command: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%^".contains(c);
    let quote = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            return word.clone();
        }
        let shown: String = word
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
            .collect();
        format!("'{}'", shown.replace('\'', r"'\''"))
    };
    command.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Text in which names that programs chose may occur, without control characters: a terminal would obey them.
pub(crate) fn harmless(text: &str) -> String {
    let show = |c: char| match c {
        '\n' => vec![c],
        c if c.is_control() => c.escape_default().collect(),
        c => vec![c],
    };
    text.chars().flat_map(show).collect()
}

/// Lines with columns that stand below each other; the last column may be as long as it likes.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        cells.join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!((wait_status(0x0300), wait_status(15), wait_status(0x8b)), (3, 143, 139));
        assert_eq!(end(9), "killed (SIGKILL)");
        let command = ["a b", "it's", "", "x\n", "ok.txt"].map(String::from);
        assert_eq!(command_line(&command), r"'a b' 'it'\''s' '' 'x\n' ok.txt");
        assert_eq!(
            table(&[vec!["A".into(), "B".into()], vec!["long".into(), "c".into()]]),
            "A     B\nlong  c"
        );
    }
}
