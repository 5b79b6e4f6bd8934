//! The server's clock: microseconds since 2000-01-01 UTC.

use std::fmt;

const US_A_SECOND: i64 = 1_000_000;
const SECONDS_A_DAY: i64 = 86_400;
/// Days from 0000-03-01 to 2000-01-01.
const EPOCH_DAY: i64 = 730_425;

/// A moment as the server writes it (PostgreSQL `TimestampTz`): microseconds since 2000-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// `2026-11-22 18:47:56.123456 UTC`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, us) = (self.0.div_euclid(US_A_SECOND), self.0.rem_euclid(US_A_SECOND));
        let (days, second) = (
            seconds.div_euclid(SECONDS_A_DAY),
            seconds.rem_euclid(SECONDS_A_DAY),
        );
        let (year, month, day) = date(days + EPOCH_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{us:06} UTC"
        )
    }
}

/// Year, month and day of a day counted from 0000-03-01, so that a leap day is its year's last.
fn date(days: i64) -> (i64, i64, i64) {
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_people_read_them() {
        let text = |us: i64| Timestamp(us).to_string();
        assert_eq!(text(0), "2000-01-01 00:00:00.000000 UTC");
        assert_eq!(text(-1), "1999-12-31 23:59:59.999999 UTC");
        assert_eq!(text(59 * 86_400_000_000), "2000-02-29 00:00:00.000000 UTC");
        assert_eq!(text(60 * 86_400_000_000), "2000-03-01 00:00:00.000000 UTC");
        assert_eq!(text(848_602_076_123_456), "2026-11-21 18:47:56.123456 UTC");
        // Whatever stands in a record is printed.
        assert!(!text(i64::MAX).is_empty() && !text(i64::MIN).is_empty());
    }
}
