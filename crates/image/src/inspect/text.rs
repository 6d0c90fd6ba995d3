//! The inspection as text for a terminal.

use std::fmt;

use super::{Inspection, ProcessLine, windows};

const NEEDS_INDENT: &str = "  ";

/// Bytes of the program (paths, names) made safe to print: control characters and what is not UTF-8 escaped.
pub fn readable(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        out.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    out
}

/// Bytes with a binary unit.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `2026-11-24 02:45:12 UTC` from nanoseconds since 1970.
pub fn utc(realtime_ns: i64) -> String {
    let seconds = realtime_ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image    {}", self.summary.id)?;
        if let Some(job) = &self.job {
            writeln!(f, "job      {}", readable(job.as_bytes()))?;
        }
        writeln!(f, "command  {}", self.command.join(" "))?;
        let (host, kernel, machine) = (&self.host_name, &self.kernel_release, &self.machine);
        let system = if self.windows.is_some() { "Windows" } else { "Linux" };
        writeln!(f, "taken    {} on {host} ({system} {kernel}, {machine})", utc(self.created_ns))?;
        writeln!(f, "size     {}", size(self.summary.bytes))?;
        let memory = &self.memory;
        writeln!(
            f,
            "memory   {} private, {} shared, {} of files, {} zero",
            size(memory.private_bytes),
            size(memory.shared_bytes),
            size(memory.file_bytes),
            size(memory.zero_bytes)
        )?;
        match &self.windows {
            Some(windows) => windows::text(f, windows)?,
            None => writeln!(f, "\nprocesses ({})", self.processes.len())?,
        }
        self.processes.iter().try_for_each(|process| process_line(f, process))?;
        for process in self.processes.iter().filter(|process| process.threads.len() > 1) {
            writeln!(f, "\nthreads of {} ({})", process.pid, process.threads.len())?;
            for thread in &process.threads {
                let waiting = thread.waiting.as_ref().map_or(String::new(), |what| format!(", in {what}"));
                writeln!(f, "  {:>7} {}{waiting}", thread.tid, thread.name)?;
            }
        }
        for process in self.processes.iter().filter(|process| !process.descriptors.is_empty()) {
            writeln!(f, "\ndescriptors of {} ({})", process.pid, process.descriptors.len())?;
            for entry in &process.descriptors {
                let flag = if entry.close_on_exec { " (close-on-exec)" } else { "" };
                writeln!(f, "  {:>7} {}{flag}", entry.number, entry.what)?;
            }
        }
        if !self.carried.is_empty() {
            writeln!(f, "\nfiles that travel ({})", self.carried.len())?;
        }
        for file in &self.carried {
            writeln!(f, "{NEEDS_INDENT}{}, {}, {}", file.path, size(file.bytes), file.purpose)?;
        }
        writeln!(f, "\nneeds from the host")?;
        self.needs.iter().try_for_each(|need| writeln!(f, "{NEEDS_INDENT}{need}"))
    }
}

fn process_line(f: &mut fmt::Formatter<'_>, process: &ProcessLine) -> fmt::Result {
    let indent = "  ".repeat(process.depth.min(20));
    write!(f, "  {:>7} {indent}{}, {}", process.pid, process.name, process.state)?;
    if let [thread] = process.threads.as_slice()
        && let Some(waiting) = &thread.waiting
    {
        write!(f, ", in {waiting}")?;
    }
    if let (Some(executable), Some(cwd)) = (&process.executable, &process.cwd) {
        write!(f, ", {executable} in {cwd}")?;
        write!(f, ", {} mapped, {} stored", size(process.mapped_bytes), size(process.stored_bytes))?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000_000_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(-1), "1969-12-31 23:59:59 UTC");
        assert_eq!(utc(1_795_488_312_000_000_000), "2026-11-24 02:45:12 UTC");
    }

    #[test]
    fn foreign_bytes_are_safe_to_print() {
        assert_eq!(readable(b"a\x1b[31m\n\xff\xc3\xa4"), "a\\u{1b}[31m\\n\\xffä");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            (size(1023), size(1024), size(5 << 30)),
            ("1023 B".into(), "1.0 KiB".into(), "5.0 GiB".into())
        );
    }
}
