//! The header of a `.npy` file: what it says is compared with the file before it is believed.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use ndarray_npy::npy::header::{Header, ParseHeaderError, ReadHeaderError};

use super::super::{FileError, error::one_line};

/// What a file begins with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// A longer header describes no array of numbers: this is the most that version 1 of the format can have.
const LONGEST: u32 = 65_535;

/// Reads the header; the data begin where it ends.
pub(super) fn read(path: &Path, file: &mut BufReader<File>) -> Result<Header, FileError> {
    let broken = |reason: String| {
        // What is wrong with it; some of that tells by itself what helps.
        let help =
            if reason.contains("; ") { "" } else { "; write it anew (in Python, `numpy.save`)" };
        FileError::format(path, "read as .npy file")(format!("{reason}{help}"))
    };
    let bytes = bytes(file).map_err(|problem| match problem {
        Problem::System(error) => FileError::system(path, "read")(error),
        Problem::Format(reason) => broken(reason),
    })?;
    Header::from_reader(&mut &bytes[..]).map_err(|error| broken(explain(&error)))
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

/// The whole header, as a Python of today would have written it.
fn bytes(file: &mut BufReader<File>) -> Result<Vec<u8>, Problem> {
    let mut start = Vec::new();
    // Magic, version, and the length of what follows, which takes two bytes in version 1.
    file.by_ref().take(8).read_to_end(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(Problem::Format(not_npy(&start).to_owned()));
    }
    let mut length = [0; 4];
    let width = if start.get(6) == Some(&1) { 2 } else { 4 };
    file.read_exact(&mut length[..width])?;
    let wanted = u32::from_le_bytes(length);
    if wanted > LONGEST {
        return Err(Problem::Format(format!("its header claims {wanted} bytes")));
    }
    start.extend_from_slice(&length[..width]);
    let text = start.len();
    if file.by_ref().take(wanted.into()).read_to_end(&mut start)? < wanted as usize {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    without_long(&mut start[text..]);
    Ok(start)
}

/// Blanks the `L` behind the numbers of a Python 2: `(3L, 4L)`.
fn without_long(header: &mut [u8]) {
    let (mut quote, mut before) = (None, b' ');
    for letter in header {
        match quote {
            Some(open) if open == *letter => quote = None,
            None if matches!(letter, b'\'' | b'"') => quote = Some(*letter),
            None if *letter == b'L' && before.is_ascii_digit() => *letter = b' ',
            _ => {}
        }
        before = *letter;
    }
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

fn explain(error: &ReadHeaderError) -> String {
    match error {
        ReadHeaderError::Parse(ParseHeaderError::DictParse(_)) => {
            "its header is not a Python dictionary".to_owned()
        }
        ReadHeaderError::Parse(ParseHeaderError::IllegalValue { key, value }) => {
            format!("its header says {key} {}", one_line(&value.to_string()))
        }
        ReadHeaderError::Parse(ParseHeaderError::Version { major, minor }) => {
            format!("it is of version {major}.{minor} of the format, known are 1.0 to 3.0")
        }
        ReadHeaderError::Parse(error) => error.to_string(),
        ReadHeaderError::Io(error) => error.to_string(),
    }
}
