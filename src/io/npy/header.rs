//! The header of a `.npy` file: what it says is compared with the file before it is believed.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use super::super::{FileError, error::one_line};
use crate::scalar::Element;

/// What a file begins with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// A longer header describes no array of numbers: this is the most that version 1 of the format can
/// have.
const LONGEST: u32 = 65_535;
/// Data begin at a multiple of so many bytes.
const ALIGNMENT: usize = 64;

/// What a file says of its array.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The elements, as `NumPy` names them.
    pub(super) descriptor: String,
    /// Whether columns lie together.
    pub(super) fortran: bool,
    pub(super) shape: Vec<usize>,
}

/// Reads the header; the data begin where it ends.
pub(super) fn read(path: &Path, file: &mut BufReader<File>) -> Result<Header, FileError> {
    let broken = |reason: String| {
        // What is wrong with it; some of that tells by itself what helps.
        let help =
            if reason.contains("; ") { "" } else { "; write it anew (in Python, `numpy.save`)" };
        FileError::format(path, "read as .npy file")(format!("{reason}{help}"))
    };
    let text = text(file).map_err(|problem| match problem {
        Problem::System(error) => FileError::system(path, "read")(error),
        Problem::Format(reason) => broken(reason),
    })?;
    Header::of(&text).map_err(broken)
}

/// `NumPy`'s letters for the kinds of elements, with the number of bytes of one.
const CODES: [(&str, Element); 14] = [
    ("b1", Element::Bool),
    ("i1", Element::I8),
    ("i2", Element::I16),
    ("i4", Element::I32),
    ("i8", Element::I64),
    ("u1", Element::U8),
    ("u2", Element::U16),
    ("u4", Element::U32),
    ("u8", Element::U64),
    ("f2", Element::F16),
    ("f4", Element::F32),
    ("f8", Element::F64),
    ("c8", Element::Complex64),
    ("c16", Element::Complex128),
];

/// The element that `NumPy` calls by this name, `<f8` say, and whether its bytes have the other
/// order than this machine's.
pub(super) fn element(descriptor: &str) -> Option<(Element, bool)> {
    let (order, code) = match descriptor.split_at_checked(1)? {
        (order @ ("<" | ">" | "=" | "|"), code) => (order, code),
        _ => ("=", descriptor), // as in memory
    };
    let other = if cfg!(target_endian = "big") { "<" } else { ">" };
    let code = if code == "?" { "b1" } else { code };
    let (_, element) = CODES.into_iter().find(|(known, _)| *known == code)?;
    Some((element, order == other))
}

/// The header of an array in this machine's order, the last axis fastest: data of any type may
/// begin behind it.
pub(super) fn new(shape: &[usize], element: Element) -> Vec<u8> {
    let order = match element.bytes() {
        1 => '|',
        _ if cfg!(target_endian = "big") => '>',
        _ => '<',
    };
    let (code, _) = CODES[CODES.iter().position(|(_, known)| *known == element).unwrap_or(0)];
    let lens: Vec<_> = shape.iter().map(usize::to_string).collect();
    // A tuple of one has a comma.
    let comma = if shape.len() == 1 { "," } else { "" };
    let shape = lens.join(", ") + comma;
    let text = format!("{{'descr': '{order}{code}', 'fortran_order': False, 'shape': ({shape})}}");
    // Magic, version and length before it, blanks and a line's end behind it.
    let bytes = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(ALIGNMENT);
    let length = bytes - MAGIC.len() - 4;
    let mut header = [MAGIC, &[1, 0], &(length as u16).to_le_bytes(), text.as_bytes()].concat();
    header.resize(bytes - 1, b' ');
    header.push(b'\n');
    header
}

impl Header {
    /// Reads a dictionary of Python with the keys `descr`, `fortran_order` and `shape`.
    fn of(text: &str) -> Result<Self, String> {
        let none = || "its header is not a Python dictionary".to_owned();
        let mut rest = text.trim().strip_prefix('{').ok_or_else(none)?.trim_start();
        let (mut descriptor, mut fortran, mut shape) = (None, None, None);
        while !rest.starts_with('}') {
            let (key, behind) = rest.split_once(':').ok_or_else(none)?;
            let value = value(behind).ok_or_else(none)?;
            rest = behind[value.len()..].trim_start_matches(',').trim_start();
            let (key, value) = (key.trim(), value.trim());
            let wrong = || format!("its header says {} {}", unquoted(key), one_line(value));
            match unquoted(key) {
                "descr" => descriptor = Some(unquoted(value).to_owned()),
                "fortran_order" => {
                    fortran = Some(match value {
                        "True" => true,
                        "False" => false,
                        _ => return Err(wrong()),
                    });
                }
                "shape" => shape = Some(lengths(value).ok_or_else(wrong)?),
                _ => return Err(format!("its header says {}, which is unknown", one_line(key))),
            }
        }
        let missing = |key: &str| format!("its header does not say {key}");
        Ok(Self {
            descriptor: descriptor.ok_or_else(|| missing("descr"))?,
            fortran: fortran.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }
}

/// The text up to the comma or brace that ends a value.
fn value(text: &str) -> Option<&str> {
    let (mut depth, mut quote) = (0_u32, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) => quote = (open != letter).then_some(open),
            (None, '\'' | '"') => quote = Some(letter),
            (None, ',' | '}') if depth == 0 => return Some(&text[..at]),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> &str {
    let within = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    within('\'').or_else(|| within('"')).unwrap_or(text)
}

/// A tuple of numbers: `()`, `(3,)`, `(3, 4)`; those of a Python 2 end with an `L`.
fn lengths(text: &str) -> Option<Vec<usize>> {
    let within = text.strip_prefix('(')?.strip_suffix(')')?.trim();
    let within = within.strip_suffix(',').unwrap_or(within);
    if within.is_empty() {
        return Some(Vec::new());
    }
    let number = |word: &str| word.trim().trim_end_matches('L').parse().ok();
    within.split(',').map(number).collect()
}

enum Problem {
    System(std::io::Error),
    Format(String),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Self::Format("the file ends within its header".to_owned())
            }
            _ => Self::System(error),
        }
    }
}

/// What the header says, without what is around it.
fn text(file: &mut BufReader<File>) -> Result<String, Problem> {
    let mut start = Vec::new();
    // Magic, version, and the length of what follows, which takes two bytes in version 1.
    file.by_ref().take(8).read_to_end(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(Problem::Format(not_npy(&start).to_owned()));
    }
    let &[major, minor] = &start[MAGIC.len()..] else {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    };
    if !matches!((major, minor), (1..=3, 0)) {
        let known = "known are 1.0 to 3.0";
        let what = format!("it is of version {major}.{minor} of the format, {known}");
        return Err(Problem::Format(what));
    }
    let mut length = [0; 4];
    let width = if major == 1 { 2 } else { 4 };
    file.read_exact(&mut length[..width])?;
    let wanted = u32::from_le_bytes(length);
    if wanted > LONGEST {
        return Err(Problem::Format(format!("its header claims {wanted} bytes")));
    }
    let mut text = Vec::new();
    if file.by_ref().take(wanted.into()).read_to_end(&mut text)? < wanted as usize {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    String::from_utf8(text).map_err(|_| Problem::Format("its header is not text".to_owned()))
}

/// What a file is that does not begin like one of this kind.
fn not_npy(start: &[u8]) -> &'static str {
    if start.is_empty() {
        "the file is empty"
    } else if start.starts_with(b"PK") {
        "it is an archive of several arrays (.npz); write one of them with `numpy.save`"
    } else if start.starts_with(b"\x89HDF") {
        "it is an HDF5 file; give it a name that ends in .h5"
    } else if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "it seems to be text; in Python, `numpy.save(\"new.npy\", numpy.loadtxt(\"old.txt\"))` makes one of it"
    } else {
        "it does not begin like one"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_dictionary_however_it_is_written() {
        let floats = Header { descriptor: "<f8".to_owned(), fortran: false, shape: vec![3, 4] };
        for text in [
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }   \n",
            "{'shape': (3L, 4L), \"fortran_order\" : False,'descr':\"<f8\"}",
        ] {
            assert_eq!(Header::of(text).as_ref(), Ok(&floats), "{text}");
        }
        let records =
            "{'descr': [('a}', '<f8'), ('b', '|u1')], 'fortran_order': True, 'shape': (), }";
        let records = Header::of(records).unwrap();
        assert_eq!(records.descriptor, "[('a}', '<f8'), ('b', '|u1')]");
        assert!(records.fortran && records.shape.is_empty());
    }

    #[test]
    fn what_is_no_header_is_told() {
        for (text, told) in [
            ("", "not a Python dictionary"),
            ("{'descr': '<f8', 'shape': (3, 4)", "not a Python dictionary"),
            ("{'descr': ')', 'shape': (3, 4)), }", "not a Python dictionary"),
            ("{'descr': '<f8', 'fortran_order': False}", "does not say shape"),
            ("{'descr': '<f8', 'fortran_order': 0, 'shape': ()}", "says fortran_order 0"),
            ("{'shape': (3, x)}", "says shape (3, x)"),
            ("{'shape': (-1,)}", "says shape (-1,)"),
            ("{'shape': (99999999999999999999,)}", "says shape (9999"),
            ("{'other': 1}", "which is unknown"),
        ] {
            let error = Header::of(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for shape in [&[][..], &[5], &[7, 1_000_000], &[usize::MAX; 7]] {
            for known in Element::ALL {
                let header = new(shape, known);
                assert_eq!(header.len() % ALIGNMENT, 0);
                let text = std::str::from_utf8(&header[MAGIC.len() + 4..]).unwrap();
                let header = Header::of(text).unwrap();
                assert_eq!(header.shape, shape);
                assert_eq!(element(&header.descriptor), Some((known, false)));
            }
        }
    }
}
