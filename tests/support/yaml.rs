//! The YAML that `spmd job` writes, read: mappings and sequences by indentation, numbers, texts
//! between double quotes, literal blocks, and words that are nothing else.

use serde_json::{Map, Value};

/// The documents of a file.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let mut documents = vec![Vec::new()];
    for line in text.lines() {
        match line {
            "---" => documents.push(Vec::new()),
            line => documents.last_mut().unwrap().push(line.to_owned()),
        }
    }
    documents.into_iter().map(|lines| Reader { lines, at: 0 }.document()).collect()
}

struct Reader {
    lines: Vec<String>,
    at: usize,
}

impl Reader {
    fn document(mut self) -> Value {
        let value = self.block(0);
        assert!(self.next().is_none(), "line {} is further left than its block", self.at + 1);
        value
    }

    /// How far to the right the next line with content is, and the content.
    fn next(&mut self) -> Option<(usize, String)> {
        loop {
            let line = self.lines.get(self.at)?;
            let text = line.trim_start();
            assert_eq!(line.trim_end(), line, "spaces at the end of line {}", self.at + 1);
            if !text.is_empty() && !text.starts_with('#') {
                return Some((line.len() - text.len(), text.to_owned()));
            }
            self.at += 1;
        }
    }

    fn block(&mut self, indent: usize) -> Value {
        match self.next() {
            Some((at, text)) if at == indent && text.starts_with("- ") => self.sequence(indent),
            Some((at, _)) if at == indent => self.mapping(indent),
            other => panic!("a block at {indent} was expected, not {other:?}"),
        }
    }

    fn sequence(&mut self, indent: usize) -> Value {
        let mut items = Vec::new();
        while let Some((_, text)) =
            self.next().filter(|(at, text)| *at == indent && text.starts_with("- "))
        {
            let item = &text[2..];
            if !item.starts_with('"') && item.contains(": ") {
                // A mapping, whose first line begins behind the dash.
                self.lines[self.at].replace_range(indent..=indent, " ");
                items.push(self.mapping(indent + 2));
            } else {
                self.at += 1;
                items.push(self.scalar(item, indent));
            }
        }
        items.into()
    }

    fn mapping(&mut self, indent: usize) -> Value {
        let mut entries = Map::new();
        while let Some((_, text)) =
            self.next().filter(|(at, text)| *at == indent && !text.starts_with("- "))
        {
            self.at += 1;
            let (key, value) = if let Some((key, value)) = text.split_once(": ") {
                (key, self.scalar(value, indent))
            } else {
                let key = text.strip_suffix(':').unwrap_or_else(|| panic!("no key: {text}"));
                let (inner, _) = self.next().expect("something belongs to a key");
                assert!(inner > indent, "nothing belongs to {key}");
                (key, self.block(inner))
            };
            assert!(entries.insert(key.to_owned(), value).is_none(), "{key} is there twice");
        }
        Value::Object(entries)
    }

    fn scalar(&mut self, text: &str, indent: usize) -> Value {
        if text == "|" {
            return self.literal(indent).into();
        }
        if let Some(quoted) = text.strip_prefix('"') {
            return unquoted(quoted).into();
        }
        if let Ok(number) = text.parse::<u64>() {
            return number.into();
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        assert!(text.chars().all(plain), "{text} needs quotes");
        assert!(
            !["true", "false", "yes", "no", "on", "off", "y", "n", "null", "~"]
                .contains(&&*text.to_lowercase()),
            "{text} is no text without quotes"
        );
        text.into()
    }

    fn literal(&mut self, indent: usize) -> String {
        let first = &self.lines[self.at];
        let inner = first.len() - first.trim_start().len();
        assert!(inner > indent, "a literal block is further right: {first}");
        let mut text = String::new();
        while let Some(line) = self.lines.get(self.at) {
            match line.get(inner..) {
                Some(rest) if line[..inner].trim().is_empty() => text.extend([rest, "\n"]),
                None if line.trim().is_empty() => text.push('\n'),
                _ => break,
            }
            self.at += 1;
        }
        text
    }
}

/// What stands behind a double quote, up to the one that must end it.
fn unquoted(quoted: &str) -> String {
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next() {
            Some('"') => break,
            Some('\\') => match characters.next() {
                Some('n') => text.push('\n'),
                Some('U') => {
                    let digits: String = characters.by_ref().take(8).collect();
                    let number = u32::from_str_radix(&digits, 16).unwrap();
                    text.push(char::from_u32(number).unwrap());
                }
                Some(c @ ('"' | '\\')) => text.push(c),
                other => panic!("no escape is {other:?}: {quoted}"),
            },
            Some(c) => text.push(c),
            None => panic!("no quote ends {quoted}"),
        }
    }
    assert_eq!(characters.next(), None, "something follows the quote: {quoted}");
    text
}
