//! Sizes, durations and dates as people write them. Pure: the time zone and the present are arguments.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan, Zoned};

/// Reads `10M`, `1.5G`, `4KiB`, `200` (bytes), `1KB`: K, M, G, T, P are powers of 1024, with a `B` behind them powers
/// of 1000, with `iB` of 1024 again.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size like 500K, 10M or 1.5G");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (letter, base) = match unit.strip_suffix("ib") {
        Some(letter) if !letter.is_empty() => (letter, 1024u64),
        _ => match unit.strip_suffix('b') {
            Some("") => ("", 1),
            Some(letter) => (letter, 1000),
            None => (unit.as_str(), 1024),
        },
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let factor = base.pow(power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| format!("{text:?} is larger than any file"));
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * factor as f64;
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Reads `90s`, `15m`, `1h30m`, `2d`, `3w`, `6mo`, `1y`, and sums of them.
pub fn duration(text: &str) -> Result<Span, String> {
    let wrong = || format!("{text:?} is not a duration like 90s, 1h30m, 2d, 3w, 6mo or 1y");
    let mut span = Span::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at(letters);
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let more = match unit {
            "s" => span.try_seconds(number),
            "m" | "min" => span.try_minutes(number),
            "h" => span.try_hours(number),
            "d" => span.try_days(number),
            "w" => span.try_weeks(number),
            "mo" => span.try_months(number),
            "y" => span.try_years(number),
            _ => return Err(wrong()),
        };
        span = more.map_err(|_| format!("{text:?} is longer than any calendar"))?;
        rest = next;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(span) }
}

/// A date with or without a time, at the start of some text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The first instant of what was named: of the day, the minute or the second.
    pub first: Timestamp,
    /// The last instant of it.
    pub last: Timestamp,
}

/// Reads `2026-11-01`, `2026-11-01 12:30`, `2026-11-01T12:30:15`, each with or without `Z` or `+01:00` after a time,
/// in `zone` otherwise.
pub fn moment(text: &str, zone: &TimeZone) -> Result<Moment, String> {
    match moment_at_start(text, zone)? {
        (moment, "") => Ok(moment),
        _ => Err(not_a_date(text)),
    }
}

/// Like [`moment`], and the text that follows, which is empty or begins with `:`.
pub fn moment_at_start<'a>(text: &'a str, zone: &TimeZone) -> Result<(Moment, &'a str), String> {
    let wrong = || not_a_date(text);
    let date: Date = text.get(..10).and_then(|date| date.parse().ok()).ok_or_else(wrong)?;
    let rest = &text[10..];
    let behind = rest.strip_prefix([' ', 'T', 't']);
    let Some((time, unit, behind)) = behind.and_then(clock_at_start) else {
        if !rest.is_empty() && !rest.starts_with(':') {
            return Err(wrong());
        }
        return Ok((span_of(date.to_datetime(Time::midnight()), 1.day(), zone).ok_or_else(wrong)?, rest));
    };
    let (zone, behind) = zone_at_start(behind).unwrap_or_else(|| (zone.clone(), behind));
    if !behind.is_empty() && !behind.starts_with(':') {
        return Err(wrong());
    }
    Ok((span_of(date.to_datetime(time), unit, &zone).ok_or_else(wrong)?, behind))
}

/// A duration before `now`, or the first instant of a date.
pub fn since(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    if let Ok(span) = duration(text) {
        let past = now.checked_sub(span).map_err(|_| format!("{text:?} reaches beyond the calendar"))?;
        return Ok(past.timestamp());
    }
    let wrong = |_| format!("{text:?} is neither a duration like 2d nor a date like 2026-11-01");
    moment(text, now.time_zone()).map(|moment| moment.first).map_err(wrong)
}

fn not_a_date(text: &str) -> String {
    format!("{text:?} is not a date like 2026-11-01 or 2026-11-01 12:30")
}

/// `HH:MM` or `HH:MM:SS`, and how much time that names.
fn clock_at_start(text: &str) -> Option<(Time, Span, &str)> {
    let two = |at: usize| {
        let digits = text.get(at..at + 2)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i8>().ok()).flatten()
    };
    let colon = |at: usize| text.as_bytes().get(at) == Some(&b':');
    let (hour, minute) = (two(0)?, two(3).filter(|_| colon(2))?);
    let ends = |at: usize| {
        !text.as_bytes().get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() && !matches!(byte, b'Z' | b'z'))
    };
    if let Some(second) = two(6).filter(|_| colon(5) && ends(8)) {
        return Some((Time::new(hour, minute, second, 0).ok()?, 1.second(), &text[8..]));
    }
    Some((Time::new(hour, minute, 0, 0).ok()?, 1.minute(), &text[5..]))
}

/// `Z`, `+01:00` or `-0530`.
fn zone_at_start(text: &str) -> Option<(TimeZone, &str)> {
    if let Some(rest) = text.strip_prefix(['Z', 'z']) {
        return Some((TimeZone::UTC, rest));
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let colon = usize::from(text.as_bytes().get(3) == Some(&b':'));
    let hours: i32 = text.get(1..3)?.parse().ok()?;
    let minutes: i32 = text.get(3 + colon..5 + colon)?.parse().ok()?;
    let offset = jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()?;
    Some((TimeZone::fixed(offset), &text[5 + colon..]))
}

/// From a local time to just before `unit` later.
fn span_of(from: DateTime, unit: Span, zone: &TimeZone) -> Option<Moment> {
    let first = from.to_zoned(zone.clone()).ok()?.timestamp();
    let after = from.checked_add(unit).ok()?.to_zoned(zone.clone()).ok()?.timestamp();
    Some(Moment { first, last: after.checked_sub(1.nanosecond()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(size(text).ok(), expected, "{text}");
        check("0", Some(0));
        check("200", Some(200));
        check("200B", Some(200));
        check("10M", Some(10 << 20));
        check("1g", Some(1 << 30));
        check("1.5K", Some(1536));
        check("4 KiB", Some(4096));
        check("1KB", Some(1000));
        check("1T", Some(1 << 40));
        for bad in ["", "M", "-1", "1X", "1iB", "1.2.3", "99999999999P", "18446744073709551616", "1 0"] {
            check(bad, None);
        }
    }

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<Span>| {
            assert_eq!(
                duration(text).ok().map(|span| span.fieldwise()),
                expected.map(|span| span.fieldwise()),
                "{text}"
            );
        };
        check("90s", Some(90.seconds()));
        check("1h30m", Some(1.hour().minutes(30)));
        check("2d", Some(2.days()));
        check("1y6mo3w", Some(1.year().months(6).weeks(3)));
        for bad in ["", "1", "d", "1x", "1d2", "-1d", "99999999999999999999y", "999999y"] {
            check(bad, None);
        }
    }

    #[test]
    fn moments() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let check = |text: &str, first: &str, rest: &str| {
            let (moment, behind) = moment_at_start(text, &zone).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((moment.first.to_string().as_str(), behind), (first, rest), "{text}");
            assert!(moment.last > moment.first);
        };
        check("2026-11-01", "2026-10-31T22:00:00Z", "");
        check("2026-11-01:sub/path", "2026-10-31T22:00:00Z", ":sub/path");
        check("2026-11-01 12:30", "2026-11-01T10:30:00Z", "");
        check("2026-11-01T12:30:15:a:b", "2026-11-01T10:30:15Z", ":a:b");
        check("2026-11-01 12:30:15Z", "2026-11-01T12:30:15Z", "");
        check("2026-11-01 12:30-05:30", "2026-11-01T18:00:00Z", "");
        check("2026-11-01 12:30:10abc", "2026-11-01T10:30:00Z", ":10abc");
        assert_eq!(moment("2026-11-01", &zone).unwrap().last.to_string(), "2026-11-01T21:59:59.999999999Z");
        for bad in ["", "2026", "2026-13-01", "2026-11-01x", "2026-11-01 25:00", "2026-11-01 12", "é026-11-01"] {
            assert!(moment(bad, &zone).is_err(), "{bad}");
        }
    }

    #[test]
    fn since_counts_back_or_names_a_day() {
        let now: Zoned = "2026-11-22T12:00:00+00:00[UTC]".parse().unwrap();
        let check = |text, expected: &str| assert_eq!(since(text, &now).unwrap().to_string(), expected);
        check("2d", "2026-11-20T12:00:00Z");
        check("1h", "2026-11-22T11:00:00Z");
        check("2026-11-01", "2026-11-01T00:00:00Z");
        assert!(since("soon", &now).is_err());
    }
}
