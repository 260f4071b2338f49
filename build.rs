//! Tells the linker where the MPI library lies, so that programs run without `LD_LIBRARY_PATH`.
//!
//! mpi-sys links the library that `$MPICC -show` names, but emits no rpath: a program built with an
//! MPI outside the system's directories (a Python wheel, a module, one's own build) would not
//! start.

use std::{env, process::Command};

/// Asked by mpi-sys before `mpicc`; the sites that use them set the library path themselves.
const INSTEAD_OF_MPICC: [&str; 2] = ["MPI_PKG_CONFIG", "CRAY_MPICH_DIR"];

/// Searched by the dynamic linker anyway.
const SYSTEM: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

fn main() {
    for variable in INSTEAD_OF_MPICC.iter().chain(&["MPICC"]) {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_MPI").is_none()
        || INSTEAD_OF_MPICC.iter().any(|variable| env::var_os(variable).is_some())
    {
        return;
    }
    let mpicc = env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    // Where there is no MPI, mpi-sys says so and how to mend it.
    let Ok(shown) = Command::new(mpicc).arg("-show").output() else { return };
    for directory in library_directories(&String::from_utf8_lossy(&shown.stdout)) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{directory}");
    }
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        // With the newer tag `LD_LIBRARY_PATH` still wins: a launcher may bring its own library.
        println!("cargo:rustc-link-arg=-Wl,--enable-new-dtags");
    }
}

/// The directories of a compiler's command line that its libraries come from, without the system's.
fn library_directories(command: &str) -> Vec<String> {
    let mut directories: Vec<String> = words(command)
        .iter()
        .filter_map(|word| word.strip_prefix("-L"))
        .filter(|directory| !is_system(directory))
        .map(str::to_owned)
        .collect();
    directories.dedup();
    directories
}

/// Debian keeps the libraries of one architecture one level deeper (`/usr/lib/x86_64-linux-gnu`).
fn is_system(directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    let above = directory.rsplit_once('/').filter(|(_, last)| last.contains("-linux-gnu"));
    SYSTEM.contains(&directory) || above.is_some_and(|(above, _)| SYSTEM.contains(&above))
}

/// Splits a command line as a shell does: at blanks, but not inside quotes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in command.chars() {
        match quote {
            Some(open) if open == letter => quote = None,
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            None if letter.is_whitespace() => words.extend(take_word(&mut word)),
            _ => word.push(letter),
        }
    }
    words.extend(take_word(&mut word));
    words
}

fn take_word(word: &mut String) -> Option<String> {
    Some(std::mem::take(word)).filter(|word| !word.is_empty())
}
