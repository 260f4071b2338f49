//! Templates: text with places to fill in.

/// Fills in a template. `__NAME__` becomes the word of that name; a line `#@name` becomes the lines
/// of the part of that name, as far to the right as it was, or vanishes where there are none. What
/// is filled in is not looked at again.
pub(super) fn fill(template: &str, words: &[(&str, &str)], parts: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    for line in template.lines() {
        let text = line.trim_start();
        if let Some(name) = text.strip_prefix("#@") {
            let indent = &line[..line.len() - text.len()];
            for line in value(parts, name).lines() {
                filled.extend([if line.is_empty() { "" } else { indent }, line, "\n"]);
            }
            continue;
        }
        // What stands between two pairs of underscores is a name.
        for (at, piece) in line.split("__").enumerate() {
            filled.push_str(if at % 2 == 0 { piece } else { value(words, piece) });
        }
        filled.push('\n');
    }
    filled
}

/// A template is part of the program: a place without a value is a mistake in it.
fn value<'a>(values: &[(&str, &'a str)], name: &str) -> &'a str {
    let found = values.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("the template has a place {name}")).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_parts_are_filled_in_once() {
        let filled = fill(
            "a=__A__ b=__B__\n  #@more\n#@none\nend",
            &[("A", "__B__"), ("B", "#@none")],
            &[("more", "one\n\n#@more __A__\n"), ("none", "")],
        );
        assert_eq!(filled, "a=__B__ b=#@none\n  one\n\n  #@more __A__\nend\n");
    }

    #[test]
    #[should_panic(expected = "a place MISSING")]
    fn a_place_without_a_value_is_found() {
        fill("__MISSING__", &[], &[]);
    }
}
