//! The calendar of a time zone, for the engine's policies.

use jiff::{Timestamp, Zoned, tz::TimeZone};
use twinkeep_engine::env::Time;
use twinkeep_engine::retention::{Calendar, Civil, Span};

use crate::show;

/// Hours, days, weeks, months and years of a zone.
pub struct Local<'a>(pub &'a TimeZone);

impl Calendar for Local<'_> {
    fn civil(&self, time: Time) -> Civil {
        let there = Zoned::new(show::timestamp(time), self.0.clone());
        let week = there.date().iso_week_date();
        Civil {
            year: there.year().into(),
            month: there.month().unsigned_abs(),
            day: there.day().unsigned_abs(),
            hour: there.hour().unsigned_abs(),
            offset: there.offset().seconds(),
            week_year: week.year().into(),
            week: week.week().unsigned_abs(),
        }
    }

    fn back(&self, time: Time, span: &Span) -> Time {
        let there = Zoned::new(show::timestamp(time), self.0.clone());
        // Out of reach of the calendar, everything is within.
        let earlier = jiff_span(span).and_then(|span| there.checked_sub(span).ok());
        earlier.and_then(|earlier| nanos(earlier.timestamp())).unwrap_or(Time(i64::MIN))
    }
}

fn jiff_span(span: &Span) -> Option<jiff::Span> {
    let whole = jiff::Span::new().try_years(span.years).ok()?.try_months(span.months).ok()?;
    whole.try_days(span.days).ok()?.try_hours(span.hours).ok()
}

fn nanos(time: Timestamp) -> Option<Time> {
    i64::try_from(time.as_nanosecond()).ok().map(Time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::retention::Utc;

    #[test]
    fn it_is_the_engine_s_calendar_elsewhere() {
        let zone = TimeZone::UTC;
        for day in (-40_000..80_000).step_by(7) {
            let time = Time(day * 86_400_000_000_000 + day * 1_234_567_891);
            assert_eq!(Local(&zone).civil(time), Utc.civil(time), "day {day}");
            for (years, months, days, hours) in
                [(0, 0, 0, 0), (1, 0, 0, 0), (0, 13, 0, 0), (2, 5, 7, 3), (0, 0, 40, 50)]
            {
                let span = Span { years, months, days, hours };
                assert_eq!(Local(&zone).back(time, &span), Utc.back(time, &span), "day {day}, {span}");
            }
        }
    }

    #[test]
    fn changes_of_clocks_keep_days_and_double_hours() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let local = Local(&zone);
        let at = |text: &str| nanos(text.parse().unwrap()).unwrap();
        let (first, second) = (local.civil(at("2026-10-25T00:30:00Z")), local.civil(at("2026-10-25T01:30:00Z")));
        assert_eq!((first.hour, second.hour, first.day), (2, 2, 25));
        assert_ne!(first, second);
        // 25 hours before noon of that day is eleven o'clock of the day before, not noon.
        let noon = at("2026-10-25T11:00:00Z");
        let back = |days, hours| local.back(noon, &Span { days, hours, ..Span::default() });
        assert_eq!(back(1, 0), at("2026-10-24T10:00:00Z"));
        assert_eq!(back(0, 25), at("2026-10-24T10:00:00Z"));
        assert_eq!(back(0, 24), at("2026-10-24T11:00:00Z"));
        // The day that has 23 hours is one day.
        assert_eq!(local.civil(at("2026-03-28T23:30:00Z")).day, 29);
        assert_eq!(local.civil(at("2026-03-29T21:59:00Z")).day, 29);
    }
}
