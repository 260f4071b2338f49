//! The token file: who has it may join, and knows the coordinator by its certificate.
//!
//! The coordinator makes it, and beside it a file with the certificate's key, which stays where it
//! is. Both are readable by their owner only.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use subtle::ConstantTimeEq;

use super::Problem;

pub(super) const TOKEN_BYTES: usize = 32;
/// The name in the certificate, wherever the coordinator runs: workers know it by the certificate.
pub(super) const SERVER_NAME: &str = "coordinator.spmd";
/// Neither file is longer.
const MOST_BYTES: u64 = 1 << 16;

const TOKEN_LINE: &str = "token ";

#[derive(Clone)]
pub(super) struct Token(pub(super) [u8; TOKEN_BYTES]);

impl Token {
    /// Takes as long whatever they have in common.
    pub(super) fn is(&self, other: &[u8; TOKEN_BYTES]) -> bool {
        self.0.ct_eq(other).into()
    }
}

/// What a coordinator has: made if neither file is there.
pub(super) fn for_coordinator(file: &Path) -> Result<(Token, Arc<ServerConfig>), Problem> {
    let key_file = beside(file);
    if !exists(file)? {
        make(file, &key_file)?;
    }
    let text = read(file)?;
    let (token, certificate) = parse(file, &text)?;
    if !exists(&key_file)? {
        return Err(Problem::TokenWithoutKey(file.to_owned()));
    }
    let key_text = read(&key_file)?;
    let key = PrivateKeyDer::from_pem_slice(key_text.as_bytes());
    let key = key.map_err(|_| Problem::NoToken(key_file))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    // The key of another certificate is refused.
    let config = config.map_err(|_| Problem::TokenWithoutKey(file.to_owned()))?;
    Ok((token, Arc::new(config)))
}

/// What a worker has: it trusts the certificate in the file, and no other.
pub(super) fn for_worker(file: &Path) -> Result<(Token, Arc<ClientConfig>), Problem> {
    let (token, certificate) = parse(file, &read(file)?)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|_| Problem::NoToken(file.to_owned()))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((token, Arc::new(config)))
}

/// Random bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    provider().secure_random.fill(&mut bytes).map_err(|_| Problem::Random)?;
    Ok(bytes)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".key");
    name.into()
}

fn exists(file: &Path) -> Result<bool, Problem> {
    file.try_exists().map_err(|error| failed("look for", file, error))
}

fn failed(what: &'static str, file: &Path, error: std::io::Error) -> Problem {
    Problem::File { what, file: file.to_owned(), error }
}

/// The key comes first: who sees the token file may join.
fn make(file: &Path, key_file: &Path) -> Result<(), Problem> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    let token = random::<TOKEN_BYTES>()?;
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    let hex: String = token.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    write(key_file, &made.signing_key.serialize_pem())?;
    write(file, &format!("{TOKEN_LINE}{hex}\n{}", made.cert.pem()))
}

/// Whole, or not at all.
fn write(file: &Path, text: &str) -> Result<(), Problem> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(name);
    let written = (|| {
        let mut options = OpenOptions::new();
        let mut out = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&unfinished, file)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&unfinished); // the first error is told
        failed("write", file, error)
    })
}

/// A file that its owner alone may read, who is this user.
fn read(file: &Path) -> Result<String, Problem> {
    let about = fs::metadata(file).map_err(|error| failed("read", file, error))?;
    if about.permissions().mode() & 0o077 != 0 {
        return Err(Problem::TokenIsOpen(file.to_owned()));
    }
    if about.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Problem::TokenOfAnother(file.to_owned()));
    }
    if !about.is_file() || about.len() > MOST_BYTES {
        return Err(Problem::NoToken(file.to_owned()));
    }
    fs::read_to_string(file).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => Problem::NoToken(file.to_owned()),
        _ => failed("read", file, error),
    })
}

fn parse(file: &Path, text: &str) -> Result<(Token, CertificateDer<'static>), Problem> {
    let token = text.lines().find_map(|line| bytes_of(line.strip_prefix(TOKEN_LINE)?));
    let certificate = CertificateDer::from_pem_slice(text.as_bytes());
    match (token, certificate) {
        (Some(token), Ok(certificate)) => Ok((Token(token), certificate)),
        _ => Err(Problem::NoToken(file.to_owned())),
    }
}

fn bytes_of(hex: &str) -> Option<[u8; TOKEN_BYTES]> {
    if hex.len() != 2 * TOKEN_BYTES || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; TOKEN_BYTES];
    for (byte, at) in bytes.iter_mut().zip((0..hex.len()).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_made_once_and_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let (first, _) = for_coordinator(&file).unwrap();
        let (again, _) = for_coordinator(&file).unwrap();
        let (worker, _) = for_worker(&file).unwrap();
        assert!(first.is(&again.0) && first.is(&worker.0) && !first.is(&[0; TOKEN_BYTES]));
        for file in [&file, &beside(&file)] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(!fs::read_to_string(&file).unwrap().contains("PRIVATE"), "the key stays behind");
    }

    #[test]
    fn what_is_no_token_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        for_coordinator(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(for_worker(&file), Err(Problem::TokenIsOpen(_))));
        assert!(matches!(for_coordinator(&file), Err(Problem::TokenIsOpen(_))));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(beside(&file)).unwrap();
        assert!(matches!(for_coordinator(&file), Err(Problem::TokenWithoutKey(_))));
        assert!(for_worker(&file).is_ok());
        // The key of another certificate.
        for_coordinator(&directory.path().join("other")).unwrap();
        fs::copy(directory.path().join("other.key"), beside(&file)).unwrap();
        assert!(matches!(for_coordinator(&file), Err(Problem::TokenWithoutKey(_))));
        for text in ["", "token 12\n", "token \u{e4}\n"] {
            fs::write(&file, text).unwrap();
            assert!(matches!(for_worker(&file), Err(Problem::NoToken(_))), "{text}");
        }
        let missing = for_worker(&directory.path().join("nowhere"));
        assert!(matches!(missing, Err(Problem::File { .. })));
    }
}
