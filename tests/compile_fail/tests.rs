//! Wrong programs do not compile, and the compiler's words point at the mistake.

use std::process::Command;

/// The compiler that the expected words come from. After a change:
/// `TRYBUILD=overwrite cargo test -p compile-fail`.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn wrong_programs_do_not_compile() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version =
        Command::new(rustc).arg("--version").output().expect("the compiler is there").stdout;
    let version = String::from_utf8_lossy(&version);
    // Another compiler says the same in other words.
    if !version.starts_with(COMPILER) || version.contains("nightly") {
        println!("skipped: needs {COMPILER}x, this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}

/// The derives that the documentation of `Datum` shows, in a crate that knows this crate and no
/// other. (Cases of trybuild see all dependencies of this crate beside it.)
#[test]
fn a_datum_is_derived_in_a_crate_that_depends_on_this_one_alone() {
    let program = r#"
        #[derive(Clone, Copy, spmd::bytemuck::NoUninit, spmd::bytemuck::AnyBitPattern)]
        #[bytemuck(crate = "spmd::bytemuck")]
        #[repr(C)]
        pub struct Particle {
            position: [f64; 3],
            charge: i64,
        }

        #[derive(Clone, Copy, spmd::bytemuck::NoUninit, spmd::bytemuck::CheckedBitPattern)]
        #[bytemuck(crate = "spmd::bytemuck")]
        #[repr(u8)]
        pub enum Spin {
            Up,
            Down,
        }

        pub fn travel(comm: &spmd::Comm, particles: &[Particle], spins: &[Spin]) {
            let _ = comm.send(particles, 1).and_then(|()| comm.send(spins, 1));
        }
    "#;
    let directory = tempfile::tempdir().expect("there is room for a file");
    let source = directory.path().join("alone.rs");
    std::fs::write(&source, program).expect("there is room for a file");
    // The library that was built last, beside this test.
    let test = std::env::current_exe().expect("this test has a path");
    let build = test.parent().expect("a directory");
    let libraries = std::fs::read_dir(build).expect("built libraries").filter_map(|entry| {
        let path = entry.ok()?.path();
        let is_ours = path.file_name()?.to_str()?.starts_with("libspmd-");
        let is_library = is_ours && path.extension().is_some_and(|kind| kind == "rlib");
        is_library.then(|| Some((path.metadata().ok()?.modified().ok()?, path)))?
    });
    let (_, library) = libraries.max().expect("the library is built");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let ended = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "-L"])
        .arg(format!("dependency={}", build.display()))
        .arg("--extern")
        .arg(format!("spmd={}", library.display()))
        .arg("--out-dir")
        .arg(directory.path())
        .arg(&source)
        .output()
        .expect("the compiler is there");
    let words = String::from_utf8_lossy(&ended.stderr);
    // `deps` may hold libraries of another compiler, of which this one knows nothing.
    if words.contains("compiled by an incompatible version of rustc") {
        println!("skipped: the library was built by another compiler");
        return;
    }
    assert!(ended.status.success(), "{words}");
}
