//! Options of wrappers: `key=value,key`, and which ones each wrapper has.
//!
//! brant checks them and makes paths absolute; the wrapper in the program reads them with the same functions.

/// How much of a string is shown at most.
pub(crate) const STRINGS_MAX: usize = 256;
/// How much where nothing is said.
#[cfg(feature = "loaded")]
pub(crate) const STRINGS_UNSAID: usize = 32;

/// What brant reads of the wrapper `heap` in a program that stands still: [`FREE_MAGIC`]; [`ARENAS_ANCHORED`] or
/// [`GROUPS_NOTED`]; glibc: the head of the list of an arena's unsorted chunks, musl: the secret of its allocator; where threads
/// note that they are inside of the allocator: the first place, how far apart they are, how many there are, and one more; musl:
/// where the groups are that large blocks were freed of, [`GROUPS_MAX`] at most.
pub const FREE_WORDS: usize = 8;
/// "BRNTHEAP".
pub const FREE_MAGIC: u64 = u64::from_le_bytes(*b"BRNTHEAP");
/// The allocator is that of glibc, and the list is known.
pub const ARENAS_ANCHORED: u64 = 1;
/// The allocator is that of musl since 1.2.1.
pub const GROUPS_NOTED: u64 = 2;
pub const GROUPS_MAX: usize = 1024;
/// How far that list is behind the beginning of its arena.
pub const ARENA_TO_LIST: u64 = 0x60;

/// How many callers of a block are kept at most.
pub(crate) const FRAMES_MAX: usize = 8;
/// How many callers a report shows at most, unless it is all.
#[cfg(not(feature = "loaded"))]
pub(crate) const TOP_MAX: u64 = 100_000;
/// The longest time between two reports.
#[cfg(not(feature = "loaded"))]
pub(crate) const EVERY_S_MAX: u64 = 1_000_000;

/// How many pairs `map` may be given.
pub(crate) const MAPS_MAX: usize = 16;
/// The longest path that options have.
pub(crate) const PATH_BYTES_MAX: usize = 1024;

/// `key=value` and `key`, in their order.
pub(crate) fn each(options: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    options.split(',').filter(|option| !option.is_empty()).map(|option| match option.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (option, None),
    })
}

/// The value of an option that is said once.
#[cfg(feature = "loaded")]
pub(crate) fn value<'a>(options: &'a str, key: &str) -> Option<&'a str> {
    each(options).find(|(found, _)| *found == key).map(|(_, value)| value.unwrap_or(""))
}

/// One fault: which call of a function fails how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault<'a> {
    pub(crate) function: &'a str,
    /// From 1 on.
    pub(crate) first: u64,
    /// Every one from there on fails.
    pub(crate) is_lasting: bool,
    pub(crate) errno: u32,
}

/// `FUNCTION=N:ERRNO` or `FUNCTION=N+:ERRNO`.
pub(crate) fn fault<'a>(function: &'a str, value: Option<&str>) -> Option<Fault<'a>> {
    let (which, errno) = value?.split_once(':')?;
    let (number, is_lasting) = match which.strip_suffix('+') {
        Some(number) => (number, true),
        None => (which, false),
    };
    let first = number.parse().ok().filter(|first| *first > 0)?;
    let errno = crate::errno::number(errno)?;
    Some(Fault { function, first, is_lasting, errno })
}

/// A scale of 1.
pub(crate) const SCALE_ONE: u64 = 1 << 32;
/// Scales from a thousandth to a hundred thousand.
const SCALE_MIN: u64 = SCALE_ONE / 1000;
const SCALE_MAX: u64 = SCALE_ONE * 100_000;

/// How fast the program's time goes: `10`, `0.5`, in parts of 2^32.
pub(crate) fn scale(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 6 || decimals.len() > 9 || !is_number(whole) || !is_number(decimals)
    {
        return None;
    }
    let mut scale = whole.parse::<u64>().ok()? << 32;
    if !decimals.is_empty() {
        let unit = 10u64.pow(decimals.len() as u32);
        scale += (u128::from(decimals.parse::<u64>().ok()?) << 32).div_ceil(unit.into()) as u64;
    }
    (SCALE_MIN..=SCALE_MAX).contains(&scale).then_some(scale)
}

/// Where the program's time of day begins: so many seconds from the real one, or at so many since 1970.
#[cfg(any(feature = "loaded", test))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Shifted(i64),
    At(i64),
}

/// What `shift` and `start` say, of which there may be one.
#[cfg(any(feature = "loaded", test))]
pub(crate) fn start(options: &str) -> Result<Start, ()> {
    let mut found = Start::Shifted(0);
    let mut count = 0;
    for (key, value) in each(options) {
        match key {
            "shift" => found = Start::Shifted(value.and_then(shift).ok_or(())?),
            "start" => found = Start::At(value.and_then(date).ok_or(())?),
            _ => continue,
        }
        count += 1;
    }
    if count > 1 { Err(()) } else { Ok(found) }
}

/// `+3d`, `-1h30m`: seconds. A shift of more than a thousand years is none.
pub(crate) fn shift(text: &str) -> Option<i64> {
    let (sign, mut rest) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (-1, rest),
        _ => return None,
    };
    let mut seconds: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = match rest[digits..].bytes().next()? {
            b'w' => 7 * 86400,
            b'd' => 86400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (seconds > 0 && seconds < 1000 * 366 * 86400).then_some(sign * seconds)
}

/// `2030-01-01` or `2030-01-01T12:30:00Z`, of UTC: seconds since 1970, which it is not before, nor after the year 9999.
pub(crate) fn date(text: &str) -> Option<i64> {
    let (day, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let [year, month, day] = numbers(day, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time.strip_suffix('Z')?, ':', [2, 2, 2])?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if is_leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days_of_month = *months.get((month - 1) as usize)?;
    if year < 1970 || day < 1 || day > days_of_month || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let before = year - 1;
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let days = (year - 1970) * 365 + leap_days(before) - leap_days(1969)
        + months[..(month - 1) as usize].iter().sum::<i64>()
        + day
        - 1;
    Some(days * 86400 + hour * 3600 + minute * 60 + second)
}

/// Three numbers of so many digits each.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut found = [0; 3];
    let mut parts = text.split(between);
    for (place, count) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == count)?;
        *place = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_shifts_and_dates_are_read() {
        assert_eq!((scale("1"), scale("0.5"), scale("60")), (Some(1 << 32), Some(1 << 31), Some(60 << 32)));
        for wrong in ["", ".5", "-1", "0", "0.0001", "100001", "1e3", "1.0000000001", "+1"] {
            assert_eq!(scale(wrong), None, "{wrong}");
        }
        assert_eq!((shift("+3d"), shift("-1h30m")), (Some(259_200), Some(-5400)));
        for wrong in ["", "3d", "+", "+d", "+3", "+3x", "+0s", "+99999999999w"] {
            assert_eq!(shift(wrong), None, "{wrong}");
        }
        assert_eq!((date("1970-01-01"), date("2030-01-01T00:00:00Z")), (Some(0), Some(1_893_456_000)));
        assert_eq!(
            (date("2024-02-29T23:59:59Z"), date("2100-03-01")),
            (Some(1_709_251_199), Some(4_107_542_400))
        );
        for wrong in [
            "",
            "2030",
            "2030-13-01",
            "2030-00-01",
            "2023-02-29",
            "1969-12-31",
            "2030-01-01T00:00:00",
            "2030-1-1",
        ] {
            assert_eq!(date(wrong), None, "{wrong}");
        }
        assert_eq!(start("scale=2,shift=+1d"), Ok(Start::Shifted(86400)));
        assert_eq!(start("start=1970-01-02"), Ok(Start::At(86400)));
        assert_eq!(start("start=1970-01-02,shift=+1d"), Err(()));
    }
}
