//! How long a job may take, in the forms that batch systems know.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A time in SLURM's forms (`30`, `30:00`, `1:30:00`, `2-0`, `2-0:00:00`; a number alone is
/// minutes) or with units (`90m`, `2h`, `1d12h`, `45s`).
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let seconds = with_units(text).or_else(|| of_slurm(text)).ok_or(
        "a time is 90m, 2h, 1d12h, 45s, or as SLURM has it: minutes, minutes:seconds, \
         hours:minutes:seconds, days-hours, days-hours:minutes:seconds",
    )?;
    if seconds == 0 { Err("a job needs time".to_owned()) } else { Ok(Duration::from_secs(seconds)) }
}

fn with_units(text: &str) -> Option<u64> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..unit].parse().ok()?;
        let scale = match rest.as_bytes()[unit] {
            b'd' => DAY,
            b'h' => HOUR,
            b'm' => MINUTE,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(scale)?)?;
        rest = &rest[unit + 1..];
    }
    (!text.is_empty()).then_some(seconds)
}

fn of_slurm(text: &str) -> Option<u64> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(number(days)?), clock),
        None => (None, text),
    };
    let numbers: Vec<u64> = clock.split(':').map(number).collect::<Option<_>>()?;
    // Behind days the first number is hours, and one or two alone are minutes and seconds.
    let scales: &[u64] = match (days, numbers.len()) {
        (Some(_), 1..=3) | (None, 3) => &[HOUR, MINUTE, 1],
        (None, 1 | 2) => &[MINUTE, 1],
        _ => return None,
    };
    let mut seconds = days.unwrap_or(0).checked_mul(DAY)?;
    for (number, scale) in numbers.iter().zip(scales) {
        seconds = seconds.checked_add(number.checked_mul(*scale)?)?;
    }
    Some(seconds)
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// As SLURM writes it: `00:30:00`, `2-00:00:00`.
pub(super) fn for_slurm(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, rest) = (seconds / DAY, seconds % DAY);
    let clock = format!("{:02}:{:02}:{:02}", rest / HOUR, rest % HOUR / MINUTE, rest % MINUTE);
    if days == 0 { clock } else { format!("{days}-{clock}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form() {
        for (text, seconds) in [
            ("30", 30 * MINUTE),
            ("1:30", 90),
            ("00:30:00", 30 * MINUTE),
            ("100:00:01", 100 * HOUR + 1),
            ("2-0", 2 * DAY),
            ("1-12", 36 * HOUR),
            ("1-2:30", DAY + 2 * HOUR + 30 * MINUTE),
            ("1-02:30:05", DAY + 2 * HOUR + 30 * MINUTE + 5),
            ("90m", 90 * MINUTE),
            ("2h", 2 * HOUR),
            ("1d12h", 36 * HOUR),
            ("1h30m5s", HOUR + 30 * MINUTE + 5),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "0",
            "0m",
            "-5",
            "+5",
            "m",
            "5x",
            "5m3",
            "1:2:3:4",
            "1-",
            "-1:00",
            "1.5h",
            "1-2-3",
            "ten",
            "99999999999999999999",
            "999999999999999999d",
            "5 m",
            "µ",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn slurm_reads_what_is_written_for_it() {
        for seconds in [1, 59, 60, 1800, HOUR, DAY - 1, DAY, 36 * HOUR, 100 * DAY + 1] {
            let time = Duration::from_secs(seconds);
            assert_eq!(parse(&for_slurm(time)), Ok(time));
        }
        assert_eq!(for_slurm(Duration::from_secs(1800)), "00:30:00");
        assert_eq!(for_slurm(Duration::from_secs(36 * HOUR)), "1-12:00:00");
    }
}
