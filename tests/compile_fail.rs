//! Wrong programs do not compile, and the compiler's words point at the mistake.

use std::process::Command;

/// The compiler that the expected words come from. After a change: `TRYBUILD=overwrite cargo test --test compile_fail`.
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
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
