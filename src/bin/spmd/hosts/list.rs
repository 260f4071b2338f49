//! Lists of hosts as SLURM and launchers write them: `a[001-003,07]:4,b-[1-2]-[09-10]`.

use super::{Host, MOST_HOSTS, MOST_SLOTS, merge};

/// Longer names no system has.
const LONGEST_NAME: usize = 255;

/// More digits than any number of a host.
const MOST_DIGITS: usize = 18;

/// The hosts of a list, each once; the same host twice has the slots of both.
///
/// `name:4` has 4 slots, `name*4` too (SLURM); slots behind a bracket are those of each host.
///
/// # Errors
/// Says at which character, and what helps.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Host>, String> {
    named(text, MOST_HOSTS).and_then(merge).map_err(|what| format!("list of hosts: {what}"))
}

/// Numbers as SLURM counts tasks by host: `2(x3),1` is 2, 2, 2, 1.
pub(super) fn parse_counts(text: &str) -> Result<Vec<usize>, String> {
    let mut counts = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (count, times) = match item.split_once("(x") {
            None => (item, 1),
            Some((count, times)) => {
                let times = times.strip_suffix(')').ok_or_else(|| {
                    wrong(text, item, "the parenthesis is not closed; write 2(x3) for 2,2,2")
                })?;
                (count, number(text, times, MOST_HOSTS)?)
            }
        };
        let count = number(text, count, MOST_SLOTS)?;
        if counts.len() + times > MOST_HOSTS {
            return Err(too_many(text, item));
        }
        counts.extend(std::iter::repeat_n(count, times));
    }
    Ok(counts)
}

/// The hosts in the order of the list, at most so many.
pub(super) fn named(text: &str, most: usize) -> Result<Vec<Host>, String> {
    let mut hosts = Vec::new();
    for item in items(text) {
        let item = item.trim();
        let (names, slots) = slots(text, item)?;
        let fields = fields(text, names)?;
        let several = fields.iter().try_fold(1_usize, |all, field| all.checked_mul(field.count()));
        if several.is_none_or(|several| hosts.len().saturating_add(several) > most) {
            return Err(too_many(text, item));
        }
        if fields.iter().map(Field::longest).sum::<usize>() > LONGEST_NAME {
            return Err(wrong(text, item, "a name has 255 characters at most"));
        }
        hosts.extend(expand(&fields).into_iter().map(|name| Host { name, slots }));
    }
    Ok(hosts)
}

/// What stands between commas outside of brackets.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c| {
        inside = c == '[' || (inside && c != ']');
        c == ',' && !inside
    })
}

/// Names, and what is said of their slots.
fn slots<'a>(text: &str, item: &'a str) -> Result<(&'a str, Option<usize>), String> {
    if item.matches(':').count() > 1 {
        return Err(wrong(
            text,
            item,
            "more than one colon; write name:slots, and for an IPv6 address a name that /etc/hosts has for it",
        ));
    }
    match item.split_once([':', '*']) {
        Some((names, count)) => Ok((names, Some(number(text, count, MOST_SLOTS)?))),
        None => Ok((item, None)),
    }
}

/// A part of names.
enum Field<'a> {
    Text(&'a str),
    Numbers(Vec<Range>),
}

/// `first` to `last`, with zeros in front of those that have fewer digits than `width`.
struct Range {
    first: u64,
    last: u64,
    width: usize,
}

impl Field<'_> {
    /// How many names it makes of one.
    fn count(&self) -> usize {
        match self {
            Self::Text(_) => 1,
            Self::Numbers(ranges) => {
                let counts = ranges.iter().map(|range| (range.last - range.first) as usize + 1);
                counts.fold(0, usize::saturating_add)
            }
        }
    }

    /// How many characters it adds to a name at most.
    fn longest(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Numbers(_) => MOST_DIGITS,
        }
    }
}

/// The names that the fields stand for; the last field counts fastest.
fn expand(fields: &[Field<'_>]) -> Vec<String> {
    fields.iter().fold(vec![String::new()], |begun, field| match field {
        Field::Text(text) => begun.into_iter().map(|name| name + text).collect(),
        Field::Numbers(ranges) => {
            let each = |name: &String| {
                let numbers = ranges.iter().flat_map(|&Range { first, last, width }| {
                    (first..=last).map(move |number| format!("{number:0width$}"))
                });
                numbers.map(|number| format!("{name}{number}")).collect::<Vec<_>>()
            };
            begun.iter().flat_map(each).collect()
        }
    })
}

/// The parts of a pattern of names.
fn fields<'a>(text: &str, names: &'a str) -> Result<Vec<Field<'a>>, String> {
    if names.is_empty() {
        return Err(wrong(text, names, "a name is missing"));
    }
    if names.starts_with('-') {
        return Err(wrong(text, names, "a name does not begin with -"));
    }
    let (mut fields, mut rest) = (Vec::new(), names);
    while !rest.is_empty() {
        let (before, bracket) = rest.split_at(rest.find('[').unwrap_or(rest.len()));
        check(text, before)?;
        fields.push(Field::Text(before));
        rest = bracket;
        if let Some(inside) = bracket.strip_prefix('[') {
            let (inside, behind) = inside
                .split_once(']')
                .ok_or_else(|| wrong(text, bracket, "the bracket is not closed; add ]"))?;
            let ranges = inside.split(',').map(|piece| range(text, piece.trim()));
            fields.push(Field::Numbers(ranges.collect::<Result<_, _>>()?));
            rest = behind;
        }
    }
    Ok(fields)
}

/// Whether this can be a part of a name.
fn check(text: &str, part: &str) -> Result<(), String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
    let Some((at, bad)) = part.char_indices().find(|&(_, c)| !is_good(c)) else { return Ok(()) };
    let what = match bad {
        ']' => "no bracket is open here",
        _ if bad.is_whitespace() => "separate hosts by commas",
        _ => "names have letters, digits, points, - and _ only",
    };
    Err(wrong(text, &part[at..], what))
}

fn range(text: &str, piece: &str) -> Result<Range, String> {
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
    if first.is_empty() || last.is_empty() || !is_number(first) || !is_number(last) {
        return Err(wrong(text, piece, "brackets hold numbers and ranges, like [001-003,07]"));
    }
    let parse = |digits: &str| {
        let number = digits.parse().ok().filter(|_| digits.len() <= MOST_DIGITS);
        number.ok_or_else(|| wrong(text, piece, "a number has 18 digits at most"))
    };
    let (low, high): (u64, u64) = (parse(first)?, parse(last)?);
    if high < low {
        return Err(wrong(text, piece, &format!("runs backwards; write {last}-{first}")));
    }
    if last.len() < first.len() || (last.len() > first.len() && last.starts_with('0')) {
        let width = first.len().max(last.len());
        let what = format!("not of the same width; write {low:0width$}-{high:0width$}");
        return Err(wrong(text, piece, &what));
    }
    Ok(Range { first: low, last: high, width: first.len() })
}

/// A number of things, `most` at most.
pub(super) fn number(text: &str, digits: &str, most: usize) -> Result<usize, String> {
    match digits.parse::<usize>() {
        Ok(0) => Err(wrong(text, digits, "0 is none; leave the host out")),
        Ok(number) if number <= most => Ok(number),
        Ok(_) => Err(wrong(text, digits, &format!("more than {most}"))),
        Err(_) => Err(wrong(text, digits, "not a number")),
    }
}

fn too_many(text: &str, item: &str) -> String {
    wrong(text, item, &format!("with it there are more than {MOST_HOSTS} hosts"))
}

/// What is wrong with a part of a text, and where that stands.
fn wrong(text: &str, part: &str, what: &str) -> String {
    // The part lies within the text.
    let before = part.as_ptr().addr() - text.as_ptr().addr();
    let character = text.get(..before).map_or(0, |before| before.chars().count()) + 1;
    let shown: String = part.chars().take(40).collect();
    if shown.is_empty() {
        return format!("character {character}: {what}");
    }
    format!("character {character}, `{}`: {what}", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use arbitrary::{Result, Unstructured};
    use arbtest::arbtest;

    use super::*;
    use crate::hosts::{Format, file};

    /// `a:2 b` for two hosts.
    fn show(hosts: &[Host]) -> String {
        let show = |host: &Host| match host.slots {
            Some(slots) => format!("{}:{slots}", host.name),
            None => host.name.clone(),
        };
        hosts.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lists_are_taken_apart() {
        for (list, expected) in [
            ("a", "a"),
            ("a,b:4", "a b:4"),
            (" a , b:4 ", "a b:4"),
            ("a[001-003,07]", "a001 a002 a003 a07"),
            ("a[8-11]:2", "a8:2 a9:2 a10:2 a11:2"),
            ("a[08-11]", "a08 a09 a10 a11"),
            ("a[98-101]", "a98 a99 a100 a101"),
            ("b-[1-2]-[09-10]", "b-1-09 b-1-10 b-2-09 b-2-10"),
            (
                "n[1-2].cluster.example.org:3,x",
                "n1.cluster.example.org:3 n2.cluster.example.org:3 x",
            ),
            ("10.0.0.[1,3],10.0.1.7:2", "10.0.0.1 10.0.0.3 10.0.1.7:2"),
            ("[1-2]", "1 2"),
            ("my_host-1", "my_host-1"),
            ("a*3,b", "a:3 b"),
            ("a,b,a", "a:2 b"),
            ("a:4,b:1,a:2,a", "a:7 b:1"),
            ("a[1-2]:2,a[2-3]", "a1:2 a2:3 a3"),
        ] {
            assert_eq!(parse_list(list).as_deref().map(show), Ok(expected.to_owned()), "{list}");
        }
    }

    #[test]
    fn wrong_lists_say_where_and_what_helps() {
        for (list, expected) in [
            ("", "character 1: a name is missing"),
            ("a,,b", "character 3: a name is missing"),
            ("a,", "character 3: a name is missing"),
            (":4", "character 1: a name is missing"),
            ("a[3-1]", "character 3, `3-1`: runs backwards; write 1-3"),
            ("a[001-3]", "character 3, `001-3`: not of the same width; write 001-003"),
            ("a[1-03]", "character 3, `1-03`: not of the same width; write 01-03"),
            ("a,b[1-3,c", "character 4, `[1-3,c`: the bracket is not closed; add ]"),
            ("a1-3]", "character 5, `]`: no bracket is open here"),
            ("a[]", "character 3: brackets hold numbers and ranges, like [001-003,07]"),
            ("a[x]", "character 3, `x`: brackets hold numbers"),
            ("a[1-2-3]", "character 3, `1-2-3`: brackets hold numbers"),
            ("a[-3]", "character 3, `-3`: brackets hold numbers"),
            ("a[[1]]", "character 3, `[1`: brackets hold numbers"),
            ("a[9999999999999999999]", "a number has 18 digits at most"),
            ("a b", "character 2, ` b`: separate hosts by commas"),
            ("ä,b", "character 1, `ä`: names have letters"),
            ("ab,root@c", "character 8, `@c`: names have letters"),
            ("a,\u{1b}[1m", "character 3, `\\u{1b}`: names have letters"),
            ("-oProxyCommand", "a name does not begin with -"),
            ("a:0", "character 3, `0`: 0 is none; leave the host out"),
            ("a:", "character 3: not a number"),
            ("a:four", "character 3, `four`: not a number"),
            ("a:10000001", "character 3, `10000001`: more than 10000000"),
            ("a[1-9]:9999999", "more than 10000000 slots"),
            (
                "[::1]:4",
                "character 1, `[::1]:4`: more than one colon; write name:slots, and for an IPv6",
            ),
            ("a,fe80::1", "character 3, `fe80::1`: more than one colon"),
        ] {
            let said = parse_list(list).unwrap_err();
            assert!(
                said.starts_with("list of hosts: ") && said.contains(expected),
                "{list}: {said}"
            );
        }
    }

    #[test]
    fn a_short_text_of_endless_hosts_is_refused() {
        let brackets = "[0-999999999999999999]".repeat(9);
        for list in ["a[1-100001]", "a[1-400][1-400]", "a[1-60000],b[1-60000]", &*brackets] {
            let said = parse_list(list).unwrap_err();
            assert!(said.contains("more than 100000 hosts"), "{said}");
        }
        assert_eq!(parse_list("a[1-100000]").unwrap().len(), 100_000);
        let long = format!("{}[1-2]", "a".repeat(250));
        assert!(parse_list(&long).unwrap_err().contains("255 characters at most"));
        assert!(parse_counts("1(x60000),1(x60000)").unwrap_err().contains("100000"));
    }

    #[test]
    fn counts_are_those_of_slurm() {
        assert_eq!(parse_counts("2(x3),1"), Ok(vec![2, 2, 2, 1]));
        assert_eq!(parse_counts("16"), Ok(vec![16]));
        for (text, expected) in [
            ("2(x3", "character 1, `2(x3`: the parenthesis is not closed"),
            ("2,(x3)", "character 3: not a number"),
            ("2(xa)", "character 4, `a`: not a number"),
            ("", "character 1: not a number"),
            ("1(x99999999)", "more than 100000"),
        ] {
            let said = parse_counts(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    /// Hosts of a few racks, each once, with slots or without.
    fn some_hosts(bytes: &mut Unstructured<'_>) -> Result<Vec<Host>> {
        let mut known = HashSet::new();
        let mut hosts = Vec::new();
        for _ in 0..bytes.int_in_range(1..=60)? {
            let name = match bytes.int_in_range(0..=4)? {
                0 => bytes.choose(&["login", "a-b_c", "n7.example.org", "7"])?.to_string(),
                1 => format!("n{:03}", bytes.int_in_range(0..=1100)?),
                2 => format!("n{}", bytes.int_in_range(0..=120)?),
                3 => format!("10.0.{}.{}", bytes.int_in_range(0..=2)?, bytes.int_in_range(0..=12)?),
                _ => {
                    let (rack, slot) = (bytes.int_in_range(0..=2)?, bytes.int_in_range(7..=12)?);
                    format!("r{rack}n{slot:02}.x1")
                }
            };
            let slots =
                bytes.arbitrary::<bool>()?.then(|| bytes.int_in_range(1..=3)).transpose()?;
            if known.insert(name.clone()) {
                hosts.push(Host { name, slots });
            }
        }
        // In order there is something to fold.
        if bytes.arbitrary()? {
            hosts.sort_by(|left, right| left.name.cmp(&right.name));
        }
        Ok(hosts)
    }

    #[test]
    fn what_is_compressed_expands_to_the_same() {
        arbtest(|bytes| {
            let hosts = some_hosts(bytes)?;
            let text = spmd::hosts::compress(hosts.iter().map(|host| &host.name));
            let names: Vec<_> = named(&text, MOST_HOSTS).unwrap();
            let same = names.iter().map(|host| &host.name).eq(hosts.iter().map(|host| &host.name));
            assert!(same, "{text}: {hosts:?}");
            Ok(())
        })
        .size_max(4096)
        .budget_ms(500);
    }

    #[test]
    fn every_form_reads_back_as_the_same_hosts() {
        arbtest(|bytes| {
            let hosts = some_hosts(bytes)?;
            for format in [Format::OpenMpi, Format::Mpich, Format::List] {
                let text = file::write(&hosts, format);
                assert_eq!(file::parse("hosts", &text).as_ref(), Ok(&hosts), "{format:?}: {text}");
            }
            // A line for each slot: one slot and no word of slots look the same.
            let text = file::write(&hosts, Format::Slurm);
            let count = |hosts: Vec<Host>| {
                let count = |host: Host| (host.name, host.slots.unwrap_or(1));
                hosts.into_iter().map(count).collect::<Vec<_>>()
            };
            assert_eq!(count(file::parse("hosts", &text).unwrap()), count(hosts), "{text}");
            Ok(())
        })
        .size_max(4096)
        .budget_ms(500);
    }

    #[test]
    fn no_text_breaks_the_parser() {
        arbtest(|bytes| {
            let letters = [
                "a", "[", "]", "1", "09", "-", ",", ":", "*", " ", "(x", ")", "=", "#", "\n",
                "slots", "é",
            ];
            let mut text = String::new();
            for _ in 0..bytes.int_in_range(0..=24)? {
                text.push_str(bytes.choose(&letters)?);
            }
            if let Ok(hosts) = parse_list(&text) {
                let again = file::write(&hosts, Format::List);
                assert_eq!(parse_list(again.trim_end()), Ok(hosts), "{text:?} {again:?}");
            }
            let _ = (parse_counts(&text), file::parse("hosts", &text));
            Ok(())
        })
        .size_max(4096)
        .budget_ms(500);
    }
}
