//! Arguments that grow with the number of cores: `--size '{1024*sqrt(p)},1024'`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What expressions are made of, for the words of errors.
const HELP: &str = "an expression is made of numbers, p (cores: ranks x threads), ranks, threads, + - * / ^ ( ), sqrt() \
                    and cbrt(); {{ is a brace";

/// Arguments of a program in which `{EXPRESSION}` and `{NAME=EXPRESSION}` stand for whole numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Template(Vec<String>);

/// The arguments of a point, and the whole numbers in them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filled {
    pub(super) arguments: Vec<String>,
    /// By name, or `#1`, `#2` … where they have none; what an expression has come to, rounded.
    pub(super) values: Vec<(String, f64)>,
}

impl Template {
    pub(super) fn new(arguments: &[String]) -> Self {
        Self(arguments.to_vec())
    }

    /// Whether anything in it changes with the number of cores.
    pub(super) fn grows(&self) -> Result<bool, String> {
        Ok(!self.fill(1, 1)?.values.is_empty())
    }

    /// The arguments for so many ranks and threads.
    ///
    /// # Errors
    /// What is wrong with an expression.
    pub(super) fn fill(&self, ranks: usize, threads: usize) -> Result<Filled, String> {
        let mut scope = Scope::new(ranks, threads);
        let mut values = Vec::new();
        let mut arguments = Vec::new();
        for argument in &self.0 {
            let mut text = String::new();
            let mut rest = argument.as_str();
            while let Some(at) = rest.find(['{', '}']) {
                text.push_str(&rest[..at]);
                let (brace, behind) = rest[at..].split_at(1);
                if let Some(behind) = behind.strip_prefix(brace) {
                    text.push_str(brace);
                    rest = behind;
                    continue;
                }
                let (inside, behind) = behind
                    .split_once('}')
                    .filter(|_| brace == "{")
                    .ok_or_else(|| format!("`{argument}`: a single brace\n  help: {HELP}"))?;
                let (name, expression) = match inside.split_once('=') {
                    Some((name, expression)) => (name.trim().to_owned(), expression),
                    None => (format!("#{}", values.len() + 1), inside),
                };
                let value =
                    scope.value(expression).map_err(|why| format!("`{{{inside}}}`: {why}"))?;
                let value = value.round();
                text += &*value.to_string(); // whole
                scope.0.insert(name.clone(), value);
                values.push((name, value));
                rest = behind;
            }
            text.push_str(rest);
            arguments.push(text);
        }
        Ok(Filled { arguments, values })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// How much work a point is: by `expression` over the values' names, else the product of all.
///
/// # Errors
/// What is wrong with the expression.
pub(super) fn work(
    expression: Option<&str>,
    filled: &Filled,
    ranks: usize,
    threads: usize,
) -> Result<f64, String> {
    let Some(expression) = expression else {
        return Ok(filled.values.iter().map(|(_, value)| value).product());
    };
    let mut scope = Scope::new(ranks, threads);
    scope.0.extend(filled.values.iter().cloned());
    let work = scope.value(expression).map_err(|why| format!("--work `{expression}`: {why}"))?;
    if work > 0.0 {
        Ok(work)
    } else {
        Err(format!("--work `{expression}` is {work}: not positive"))
    }
}

/// The names that expressions know.
struct Scope(BTreeMap<String, f64>);

impl Scope {
    fn new(ranks: usize, threads: usize) -> Self {
        let known = [("ranks", ranks), ("threads", threads), ("p", ranks * threads)];
        Self(known.map(|(name, value)| (name.to_owned(), value as f64)).into())
    }

    fn value(&self, text: &str) -> Result<f64, String> {
        let mut parser = Parser { scope: self, rest: text.trim_start() };
        let value = parser.sum()?;
        if !parser.rest.is_empty() {
            return Err(format!("`{}` is not understood\n  help: {HELP}", parser.rest));
        }
        if value.is_finite() { Ok(value) } else { Err("is no number".to_owned()) }
    }
}

struct Parser<'a> {
    scope: &'a Scope,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Goes over the next sign if it is one of these.
    fn sign(&mut self, signs: &str) -> Option<char> {
        let sign = self.rest.chars().next().filter(|&sign| signs.contains(sign))?;
        self.rest = self.rest[sign.len_utf8()..].trim_start();
        Some(sign)
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        while let Some(sign) = self.sign("+-") {
            let next = self.product()?;
            value += if sign == '+' { next } else { -next };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.power()?;
        while let Some(sign) = self.sign("*/") {
            let next = self.power()?;
            value = if sign == '*' { value * next } else { value / next };
        }
        Ok(value)
    }

    fn power(&mut self) -> Result<f64, String> {
        if self.sign("-").is_some() {
            return Ok(-self.power()?);
        }
        let base = self.atom()?;
        match self.sign("^") {
            Some(_) => Ok(base.powf(self.power()?)),
            None => Ok(base),
        }
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|sign: char| !belongs(sign)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn atom(&mut self) -> Result<f64, String> {
        if self.sign("(").is_some() {
            return self.closed();
        }
        let number = self.word(|sign| sign.is_ascii_digit() || sign == '.');
        if !number.is_empty() {
            return number.parse().map_err(|_| format!("`{number}` is no number"));
        }
        let name = self.word(|sign| sign.is_alphanumeric() || sign == '_' || sign == '#');
        if name.is_empty() {
            let rest = if self.rest.is_empty() { "its end" } else { self.rest };
            return Err(format!("a number is missing before {rest}\n  help: {HELP}"));
        }
        if self.sign("(").is_some() {
            let value = self.closed()?;
            return match name {
                "sqrt" => Ok(value.sqrt()),
                "cbrt" => Ok(value.cbrt()),
                _ => Err(format!("there is no function `{name}`\n  help: {HELP}")),
            };
        }
        let known = self.scope.0.get(name).copied();
        known.ok_or_else(|| format!("there is no `{name}`\n  help: {HELP}"))
    }

    /// What follows an opening parenthesis.
    fn closed(&mut self) -> Result<f64, String> {
        let value = self.sum()?;
        match self.sign(")") {
            Some(_) => Ok(value),
            None => Err("a parenthesis is not closed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<f64, String> {
        Scope::new(4, 2).value(text)
    }

    fn template(words: &[&str]) -> Template {
        Template::new(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn expressions_are_as_in_every_language() {
        for (text, expected) in [
            ("1+2*3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("2^3^2", 512.0),
            ("-2^2", -4.0),
            ("8/4/2", 1.0),
            ("5-3-1", 1.0),
            ("100*sqrt(ranks)", 200.0),
            ("cbrt(p)", 2.0),
            ("2*p^(1/3)", 4.0),
            ("1.5e".trim_end_matches('e'), 1.5),
        ] {
            let got = value(text).unwrap();
            assert!((got - expected).abs() < 1e-12, "{text} is {got}");
        }
        for (text, word) in [
            ("", "missing"),
            ("1+", "missing"),
            ("2 3", "not understood"),
            ("x", "no `x`"),
            ("sin(1)", "no function `sin`"),
            ("(1", "not closed"),
            ("1.2.3", "no number"),
            ("1/0", "no number"),
        ] {
            let why = value(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn arguments_are_filled_in_and_rounded() {
        let template = template(&["--size", "{n=1000*sqrt(p)},{n}", "--set", "{{x}}"]);
        assert!(template.grows().unwrap());
        let filled = template.fill(2, 1).unwrap();
        assert_eq!(filled.arguments, ["--size", "1414,1414", "--set", "{x}"]);
        assert_eq!(filled.values, [("n".to_owned(), 1414.0), ("#2".to_owned(), 1414.0)]);
        let of = |expression| work(expression, &filled, 2, 1).unwrap() as u64;
        assert_eq!((of(None), of(Some("n^2*ranks"))), (1_999_396, 3_998_792));
        assert!(work(Some("m"), &filled, 2, 1).unwrap_err().contains("--work `m`"));
        assert!(work(Some("0-n"), &filled, 2, 1).unwrap_err().contains("not positive"));
    }

    #[test]
    fn what_does_not_grow_and_what_is_wrong_is_seen() {
        assert!(!template(&["--size", "10"]).grows().unwrap());
        for wrong in ["{", "a}b", "{n=}", "{q}"] {
            assert!(template(&[wrong]).grows().is_err(), "{wrong}");
        }
    }
}
