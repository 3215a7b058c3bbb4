//! Calendars: hours, days, ISO weeks, months and years as they are called somewhere.

use crate::env::Time;
use crate::history::DAY;
use std::fmt;

const HOUR: i64 = DAY / 24;

/// What a moment is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Civil {
    /// Year.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// Seconds east of Greenwich: an hour that a change of clocks repeats is two hours.
    pub offset: i32,
    /// The year the ISO week belongs to.
    pub week_year: i32,
    /// ISO week, 1 to 53.
    pub week: u8,
}

/// A stretch of calendar time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

/// `1y6m3d12h`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        for (number, letter) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{number}{letter}")?;
        }
        if *self == Self::default() { f.write_str("0h") } else { Ok(()) }
    }
}

/// Knows what moments are called in some place.
pub trait Calendar {
    /// What a moment is called.
    fn civil(&self, time: Time) -> Civil;
    /// The moment a span before another; the earliest there is where that is out of reach.
    fn back(&self, time: Time, span: &Span) -> Time;
}

/// The calendar of Greenwich.
pub struct Utc;

impl Calendar for Utc {
    fn civil(&self, time: Time) -> Civil {
        let days = time.0.div_euclid(DAY);
        let (year, month, day) = date(days);
        let (week_year, week) = week(days);
        let hour = (time.0.rem_euclid(DAY) / HOUR) as u8;
        Civil { year, month, day, hour, offset: 0, week_year, week }
    }

    fn back(&self, time: Time, span: &Span) -> Time {
        let (year, month, day) = date(time.0.div_euclid(DAY));
        let months = i64::from(year) * 12 + i64::from(month) - 1;
        let months = months - i64::from(span.years) * 12 - i64::from(span.months);
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
        // The 31st of a month that has none is its last day.
        let first = day_number(year, month);
        let next = day_number(year + month / 12, month % 12 + 1);
        let days = first + i64::from(day - 1).min(next - first - 1) - i64::from(span.days);
        let back = i128::from(days) * i128::from(DAY) + i128::from(time.0.rem_euclid(DAY));
        let back = back - i128::from(span.hours) * i128::from(HOUR);
        Time(i64::try_from(back).unwrap_or(i64::MIN))
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn date(days: i64) -> (i32, u8, u8) {
    // Years begin in March here, so that a leap day ends one; 400 of them have 146 097 days.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year as i32, month as u8, day as u8)
}

/// The first day of a month, counted from 1970-01-01.
fn day_number(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// ISO 8601 week and the year it belongs to: that of its Thursday.
fn week(days: i64) -> (i32, u8) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let (year, ..) = date(thursday);
    let week = (thursday - day_number(i64::from(year), 1)) / 7 + 1;
    (year, week as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_names() {
        let check = |secs: i64, (year, month, day, hour): (i32, u8, u8, u8), (week_year, week): (i32, u8)| {
            let expected = Civil { year, month, day, hour, offset: 0, week_year, week };
            assert_eq!(Utc.civil(Time(secs * 1_000_000_000)), expected, "{secs}");
        };
        check(0, (1970, 1, 1, 0), (1970, 1));
        check(-1, (1969, 12, 31, 23), (1970, 1));
        check(951_782_400, (2000, 2, 29, 0), (2000, 9));
        check(1_609_455_600, (2020, 12, 31, 23), (2020, 53));
        check(1_609_459_200, (2021, 1, 1, 0), (2020, 53));
        check(1_609_718_400, (2021, 1, 4, 0), (2021, 1));
        check(1_735_516_800, (2024, 12, 30, 0), (2025, 1));
        check(4_107_542_400, (2100, 3, 1, 0), (2100, 9));
    }

    #[test]
    fn spans_lead_back() {
        let at = |year, month, day: i64, hour: i64| Time((day_number(year, month) + day - 1) * DAY + hour * HOUR);
        let check = |from, (years, months, days, hours), to, text: &str| {
            let span = Span { years, months, days, hours };
            assert_eq!((Utc.back(from, &span), span.to_string().as_str()), (to, text), "{span}");
        };
        check(at(2026, 3, 31, 12), (0, 1, 0, 0), at(2026, 2, 28, 12), "1m");
        check(at(2024, 2, 29, 0), (1, 0, 0, 0), at(2023, 2, 28, 0), "1y");
        check(at(2026, 1, 1, 1), (0, 13, 1, 2), at(2024, 11, 29, 23), "13m1d2h");
        check(at(2026, 12, 31, 1), (0, 12, 0, 0), at(2025, 12, 31, 1), "12m");
        check(at(2026, 1, 1, 1), (0, 0, 0, 0), at(2026, 1, 1, 1), "0h");
        check(
            at(2026, 1, 1, 1),
            (u32::MAX, u32::MAX, u32::MAX, u32::MAX),
            Time(i64::MIN),
            &Span { years: u32::MAX, months: u32::MAX, days: u32::MAX, hours: u32::MAX }.to_string(),
        );
    }
}
