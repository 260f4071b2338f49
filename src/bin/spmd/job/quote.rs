//! Words that a shell, YAML and Kubernetes read as they were.

use std::{borrow::Cow, fmt::Write};

/// A word for bash.
pub(super) fn shell(word: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./,:=+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return Cow::Borrowed(word);
    }
    // Between single quotes a shell reads all but a single quote as it is.
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// A text for YAML: between double quotes, in printable characters.
pub(super) fn yaml(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            ' '..='~' => quoted.push(c),
            _ if c.is_alphanumeric() => quoted.push(c),
            // A string takes everything.
            _ => drop(write!(quoted, "\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// An argument for a container: Kubernetes puts variables in the place of `$(NAME)`, and makes one
/// dollar of two.
pub(super) fn kubernetes(argument: &str) -> String {
    let mut quoted = String::new();
    let mut characters = argument.chars().peekable();
    while let Some(c) = characters.next() {
        quoted.push(c);
        if c == '$' && matches!(characters.peek(), Some('$' | '(')) {
            quoted.push('$');
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Words that somebody reads in a way of its own.
    const WORDS: [&str; 26] = [
        "",
        " ",
        "plain",
        "two words",
        "it's",
        "\"quoted\"",
        "a\nb\n",
        "$HOME",
        "$(date)",
        "`date`",
        "$$(A)$",
        "$$$((",
        "*",
        "~",
        "{1..3}",
        "a\\",
        "-n",
        "!x",
        "#x",
        "a\tb",
        "[1]=x",
        "&",
        "null",
        "é😀\u{85}\u{2028}\u{7f}\u{1}\u{feff}",
        "'",
        "--- |",
    ];

    /// Words made of what is special somewhere, besides those above.
    fn random_words(u: &mut arbitrary::Unstructured) -> arbitrary::Result<Vec<String>> {
        let mut words = vec![(*u.choose(&WORDS)?).to_owned()];
        for _ in 0..u.int_in_range(0..=3)? {
            let mut word = String::new();
            for _ in 0..u.int_in_range(0..=8)? {
                let special: Vec<char> = " '\"\\$(){}[]`!#&*?~;|<>\n\t%:,-=_@é".chars().collect();
                let c = if u.ratio(1, 4)? { u.arbitrary::<char>()? } else { *u.choose(&special)? };
                // No program can be given one.
                if c != '\0' {
                    word.push(c);
                }
            }
            words.push(word);
        }
        Ok(words)
    }

    #[test]
    fn a_shell_reads_words_as_they_were() {
        let read = |words: &[String]| {
            let quoted: Vec<_> = words.iter().map(|word| shell(word)).collect();
            let script = format!("set -- {}\nprintf '%s\\0' \"$@\"", quoted.join(" "));
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let read: Vec<&str> = text.split_terminator('\0').collect();
            assert_eq!(read, words, "{script}");
        };
        read(&WORDS.map(str::to_owned));
        arbtest::arbtest(|u| {
            read(&random_words(u)?);
            Ok(())
        })
        .budget_ms(500);
    }

    /// What YAML makes of a text between double quotes.
    fn of_yaml(quoted: &str) -> String {
        let inner = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap();
        let mut text = String::new();
        let mut characters = inner.chars();
        while let Some(c) = characters.next() {
            assert!(c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric(), "{quoted}");
            assert_ne!(c, '"', "{quoted}");
            text.push(match c {
                '\\' => match characters.next().unwrap() {
                    'n' => '\n',
                    'U' => {
                        let digits: String = characters.by_ref().take(8).collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap()
                    }
                    c @ ('"' | '\\') => c,
                    c => panic!("no escape is {c}: {quoted}"),
                },
                c => c,
            });
        }
        text
    }

    /// What Kubernetes makes of an argument where no variable is known: it leaves `$(NAME)` as it
    /// is then, but a test must not.
    fn of_kubernetes(argument: &str) -> String {
        let mut text = String::new();
        let mut characters = argument.chars().peekable();
        while let Some(c) = characters.next() {
            text.push(c);
            if c == '$' {
                match characters.peek() {
                    Some('$') => drop(characters.next()),
                    Some('(') => panic!("{argument} names a variable"),
                    _ => {}
                }
            }
        }
        text
    }

    #[test]
    fn yaml_and_kubernetes_read_words_as_they_were() {
        let read = |word: &str| {
            assert_eq!(of_kubernetes(&of_yaml(&yaml(&kubernetes(word)))), word);
        };
        for word in WORDS {
            read(word);
        }
        arbtest::arbtest(|u| {
            random_words(u)?.iter().for_each(|word| read(word));
            Ok(())
        })
        .budget_ms(500);
    }
}
