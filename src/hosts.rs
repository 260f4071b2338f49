//! Layer 0: names of many hosts, as batch systems write them.

use std::fmt::{self, Display};

/// Many names as one short text, in their order: SLURM's lists, which
/// `scontrol show hostnames` and `spmd hostfile --hosts` take apart again.
///
/// Numbers that count up are folded, wherever they stand in the names, with their zeros.
///
/// # Examples
/// ```
/// let rack = ["r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10", "login"];
/// assert_eq!(spmd::hosts::compress(rack), "r[1-2]n[08-10],login");
/// ```
pub fn compress<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let mut patterns: Vec<Pattern> =
        names.into_iter().map(|name| Pattern::of(name.as_ref())).collect();
    let most = patterns.iter().map(|pattern| pattern.numbers.len()).max().unwrap_or(0);
    // From the right: what is taken apart counts up there fastest.
    for position in (0..most).rev() {
        let mut folded: Vec<Pattern> = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            match folded.last_mut() {
                Some(last) if last.differs_only_at(position, &pattern) => {
                    last.add(position, &pattern);
                }
                _ => folded.push(pattern),
            }
        }
        patterns = folded;
    }
    patterns.iter().map(Pattern::to_string).collect::<Vec<_>>().join(",")
}

/// Names that differ in their numbers only: `numbers[i]` stands between `texts[i]` and the next.
struct Pattern {
    texts: Vec<String>,
    numbers: Vec<Vec<Range>>,
}

/// Numbers that count up, with zeros in front of those that have fewer digits than `width`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    width: usize,
}

/// Longer rows of digits are no numbers, but text.
const MOST_DIGITS: usize = 18;

impl Pattern {
    fn of(name: &str) -> Self {
        let (mut text, mut texts, mut numbers) = (String::new(), Vec::new(), Vec::new());
        let mut rest = name;
        while !rest.is_empty() {
            let (before, behind) = split(rest, |c| c.is_ascii_digit());
            let (digits, behind) = split(behind, |c| !c.is_ascii_digit());
            text.push_str(before);
            match digits.parse() {
                Ok(number) if digits.len() <= MOST_DIGITS => {
                    numbers.push(vec![Range { first: number, last: number, width: digits.len() }]);
                    texts.push(std::mem::take(&mut text));
                }
                _ => text.push_str(digits),
            }
            rest = behind;
        }
        texts.push(text);
        Self { texts, numbers }
    }

    fn differs_only_at(&self, position: usize, other: &Self) -> bool {
        let rest = |pattern: &Self| {
            let (left, right) = pattern.numbers.split_at_checked(position)?;
            Some((left.to_vec(), right.get(1..)?.to_vec()))
        };
        self.texts == other.texts && rest(self).is_some() && rest(self) == rest(other)
    }

    /// Adds the names of a pattern that differs only there.
    fn add(&mut self, position: usize, other: &Self) {
        let known = &mut self.numbers[position];
        for &range in &other.numbers[position] {
            match known.last_mut() {
                Some(last) if last.continues_with(range) => last.last = range.last,
                _ => known.push(range),
            }
        }
    }
}

impl Range {
    /// Whether `next` is the number that follows, as this range would write it.
    fn continues_with(self, next: Self) -> bool {
        next.first == self.last + 1 && next.width == self.width.max(digits(next.first))
    }
}

/// How many digits a number has.
fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The text in front of the first such character, and from there on.
fn split(text: &str, is_there: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_there).unwrap_or(text.len()))
}

impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (text, numbers) in self.texts.iter().zip(&self.numbers) {
            f.write_str(text)?;
            match &**numbers {
                [one] if one.first == one.last => write!(f, "{one}")?,
                several => {
                    let several: Vec<_> = several.iter().map(Range::to_string).collect();
                    write!(f, "[{}]", several.join(","))?;
                }
            }
        }
        // There is one text more than numbers.
        f.write_str(self.texts.last().map_or("", String::as_str))
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, width } = *self;
        write!(f, "{first:0width$}")?;
        if first == last { Ok(()) } else { write!(f, "-{last:0width$}") }
    }
}

#[cfg(test)]
mod tests {
    use super::compress;

    #[test]
    fn numbers_that_count_up_are_folded() {
        for (names, expected) in [
            (&[][..], ""),
            (&["node"], "node"),
            (&["node7"], "node7"),
            (&["n001", "n002", "n003", "n007"], "n[001-003,007]"),
            (&["n9", "n10", "n11"], "n[9-11]"),
            (&["n09", "n10", "n11"], "n[09-11]"),
            (&["n9", "n010"], "n[9,010]"),
            (&["n99", "n100", "n0101"], "n[99-100,0101]"),
            (&["n3", "n2", "n1"], "n[3,2,1]"),
            (&["a1", "b2", "b3"], "a1,b[2-3]"),
            (&["10.0.0.1", "10.0.0.2"], "10.0.0.[1-2]"),
            (&["n1.c2.org", "n2.c2.org"], "n[1-2].c2.org"),
            (&["b-1-09", "b-1-10", "b-2-09", "b-2-10"], "b-[1-2]-[09-10]"),
            (&["b-1-09", "b-1-10", "b-2-09"], "b-1-[09-10],b-2-09"),
            (&["a", "a", "a"], "a,a,a"),
            (
                &["99999999999999999998", "99999999999999999999"],
                "99999999999999999998,99999999999999999999",
            ),
        ] {
            assert_eq!(compress(names), expected);
        }
    }

    #[test]
    fn many_hosts_are_a_short_text() {
        let names: Vec<String> = (0..100_000).map(|number| format!("n{number:05}")).collect();
        assert_eq!(compress(names), "n[00000-99999]");
    }
}
