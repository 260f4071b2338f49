//! What the types of objects are called, so that the receiver can tell whether it asks for what was
//! sent.

use std::{any::type_name, cell::RefCell, collections::HashMap, rc::Rc};

thread_local! {
    /// By the address of the compiler's name.
    static KNOWN: RefCell<HashMap<(usize, usize), Rc<str>>> = RefCell::default();
}

/// The name of a type: the same for a value and what borrows or owns it (`&T`, `Box<T>`, `Arc<T>`,
/// `Cow<T>`), for `&str` and `String`, for `&[T]` and `Vec<T>`, which serde writes alike.
pub(super) fn name_of<T: ?Sized>() -> Rc<str> {
    let name = type_name::<T>();
    let make = || Rc::from(plain(name));
    let key = (name.as_ptr().addr(), name.len());
    KNOWN.with_borrow_mut(|known| Rc::clone(known.entry(key).or_insert_with(make)))
}

/// What serde writes as what it holds; vectors as slices.
const TRANSPARENT: [&str; 8] = [
    "alloc::boxed::Box<",
    "alloc::rc::Rc<",
    "alloc::sync::Arc<",
    "alloc::borrow::Cow<",
    "core::cell::Cell<",
    "core::cell::RefCell<",
    "core::num::wrapping::Wrapping<",
    "core::cmp::Reverse<",
];
const SLICES: &str = "alloc::vec::Vec<";
const TEXT: &str = "alloc::string::String";

/// The compiler's name without lifetimes, pointers and the paths of the standard library.
fn plain(name: &str) -> String {
    let (mut plainer, mut rest) = (String::new(), name);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|letter: char| !is_of_a_path(letter)).unwrap_or(rest.len());
        let opened = rest.get(..=word).filter(|path| path.ends_with('<'));
        if first == '&' {
            rest = rest[1..].trim_start();
            rest = rest.strip_prefix("mut ").unwrap_or(rest);
        } else if let Some(length) = lifetime(rest) {
            rest = rest[length..].trim_start_matches([',', ' ']);
        } else if let Some(outer) =
            opened.filter(|outer| TRANSPARENT.contains(outer) || *outer == SLICES)
        {
            let (inner, behind) = inside(&rest[outer.len()..]);
            let inner = plain(inner);
            let (open, close) = if outer == SLICES { ("[", "]") } else { ("", "") };
            plainer.extend([open, &inner, close]);
            rest = behind;
        } else if word > 0 {
            let path = &rest[..word];
            let of_std = ["alloc::", "core::", "std::"].iter().any(|root| path.starts_with(root));
            let last = path.rsplit("::").next().unwrap_or(path);
            plainer += if path == TEXT {
                "str"
            } else if of_std {
                last
            } else {
                path
            };
            rest = &rest[word..];
        } else {
            plainer.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    // `Name<'_>` has nothing left between its brackets.
    plainer.replace("<>", "")
}

fn is_of_a_path(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == ':'
}

/// The length of a lifetime, if there is one here and not a character.
fn lifetime(text: &str) -> Option<usize> {
    let name = text.strip_prefix('\'')?;
    let end = name.find(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
    let end = end.unwrap_or(name.len());
    (end > 0 && !name[end..].starts_with('\'')).then_some(end + 1)
}

/// What stands before the bracket that closes, and behind it.
fn inside(text: &str) -> (&str, &str) {
    let (mut depth, mut before) = (0, ' ');
    for (at, letter) in text.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' if before == '-' => {} // an arrow
            '>' if depth == 0 => return (&text[..at], &text[at + 1..]),
            '>' => depth -= 1,
            _ => {}
        }
        before = letter;
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use std::{
        borrow::Cow,
        collections::{BTreeMap, HashMap},
        sync::Arc,
    };

    use super::*;

    #[allow(dead_code, reason = "only their names matter")]
    struct Of<'a, T>(&'a T);

    #[test]
    fn what_serde_writes_alike_is_called_alike() {
        assert_eq!(&*name_of::<&str>(), "str");
        assert_eq!(name_of::<String>(), name_of::<&&str>());
        assert_eq!(name_of::<Cow<'_, str>>(), name_of::<Box<str>>());
        assert_eq!(name_of::<&[u8]>(), name_of::<Arc<Vec<u8>>>());
        assert_eq!(
            name_of::<(&str, Vec<Option<f64>>)>(),
            name_of::<(String, Box<[Option<f64>]>)>()
        );
        assert_eq!(&*name_of::<BTreeMap<String, Vec<u8>>>(), "BTreeMap<str, [u8]>");
        assert_eq!(name_of::<HashMap<&str, Box<&mut i64>>>(), name_of::<HashMap<String, i64>>());
        assert!(name_of::<Of<'_, Vec<u8>>>().ends_with("names::tests::Of<[u8]>"), "a path stays");
    }

    #[test]
    fn what_is_different_is_called_differently() {
        assert_ne!(name_of::<u32>(), name_of::<i32>());
        assert_ne!(name_of::<[u8; 3]>(), name_of::<[u8; 4]>());
        assert_ne!(name_of::<Option<u8>>(), name_of::<u8>());
        assert_ne!(name_of::<(u8, u8)>(), name_of::<Vec<u8>>());
        assert_ne!(name_of::<fn(Vec<u8>) -> u8>(), name_of::<fn(Vec<u8>) -> u16>());
        assert_eq!(plain("a::Of<'x'>"), "a::Of<'x'>");
        assert_eq!(plain("a::Of<'_>"), "a::Of");
    }
}
