//! What a hand-over is doing, on one line of the user's terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use brant_image::inspect::size;

use crate::report::Report;

/// Between two drawings of the line.
const EVERY: Duration = Duration::from_millis(200);
/// Of a terminal that does not tell.
const USUAL_COLUMNS: usize = 80;

/// The line. It is there only where stderr is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
    drawn_at: Option<Instant>,
    begun: Instant,
    /// Bytes of memory that are to be written, before they are compressed.
    total_bytes: u64,
    done_bytes: u64,
    sent_bytes: u64,
}

impl Progress {
    pub(super) fn new(report: &Report) -> Progress {
        Progress {
            shown: !report.quiet && !report.json && std::io::stderr().is_terminal(),
            drawn_at: None,
            begun: Instant::now(),
            total_bytes: 0,
            done_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// The image begins; about so much memory is to be written.
    pub(super) fn begin(&mut self, total_bytes: u64) {
        (self.begun, self.total_bytes) = (Instant::now(), total_bytes);
    }

    /// So much has been handed to the connection, of so much memory.
    pub(super) fn sent(&mut self, sent_bytes: u64, memory_bytes: u64) {
        self.sent_bytes = sent_bytes;
        self.done_bytes += memory_bytes;
        if self.drawn_at.is_none_or(|at| at.elapsed() >= EVERY) {
            let text = self.text(self.begun.elapsed());
            self.draw(&text);
        }
    }

    fn text(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let total = self.total_bytes.max(self.done_bytes);
        let rate = self.done_bytes as f64 / seconds;
        let percent = (self.done_bytes * 100).checked_div(total).unwrap_or(0);
        let mut text = format!("sending: {percent:3} % of {}", size(total));
        if self.done_bytes > 0 {
            text.push_str(&format!(", {}/s", size(rate as u64)));
        }
        if self.done_bytes > 0 && elapsed > Duration::from_secs(1) {
            let left = (total - self.done_bytes) as f64 / rate;
            text.push_str(&format!(", {} left", duration(left)));
        }
        // What matters least comes last: a narrow terminal cuts it off.
        text + &format!(" ({} on the wire)", size(self.sent_bytes))
    }

    /// Another phase.
    pub(super) fn phase(&mut self, text: &str) {
        self.draw(text);
    }

    /// The line goes.
    pub(super) fn clear(&mut self) {
        if self.shown && self.drawn_at.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn draw(&mut self, text: &str) {
        if !self.shown {
            return;
        }
        self.drawn_at = Some(Instant::now());
        let told =
            brant_kernel::task::window(std::io::stderr()).map_or(0, |window| usize::from(window.columns));
        let columns = if told == 0 { USUAL_COLUMNS } else { told.max(20) };
        let line: String = text.chars().take(columns - 1).collect();
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn duration(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_rate_and_time_left() {
        let progress = Progress {
            shown: false,
            drawn_at: None,
            begun: Instant::now(),
            total_bytes: 400 << 20,
            done_bytes: 100 << 20,
            sent_bytes: 40 << 20,
        };
        let text = progress.text(Duration::from_secs(2));
        assert_eq!(text, "sending:  25 % of 400.0 MiB, 50.0 MiB/s, 6 s left (40.0 MiB on the wire)");
        assert!(!progress.text(Duration::from_millis(100)).contains("left"));
    }
}
