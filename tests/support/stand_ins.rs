//! Scripts under test, with stand-ins for the programs that they call.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory of programs that stand in for real ones.
pub(crate) struct StandIns(pub(crate) tempfile::TempDir);

impl StandIns {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A shell script `body` under the name `name`.
    pub(crate) fn add(self, name: &str, body: &str) -> Self {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// The real programs of these names.
    pub(crate) fn with_real(self, names: &[&str]) -> Self {
        for name in names {
            let path = std::env::var("PATH").unwrap();
            let real =
                std::env::split_paths(&path).map(|dir| dir.join(name)).find(|at| at.exists());
            let real: PathBuf = real.unwrap_or_else(|| panic!("{name} is not there"));
            std::os::unix::fs::symlink(real, self.0.path().join(name)).unwrap();
        }
        self
    }

    /// Runs a script with nothing in its path but these programs and, if so wished, the system's
    /// behind them.
    pub(crate) fn run(
        &self,
        script: impl AsRef<Path>,
        arguments: &[&str],
        variables: &[(&str, &str)],
        system: bool,
    ) -> Ended {
        let mut path = self.0.path().to_str().unwrap().to_owned();
        if system {
            path.push_str(":/usr/bin:/bin");
        }
        let output = Command::new("/bin/bash")
            .arg(root().join("scripts").join(script.as_ref()))
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.0.path())
            .envs(variables.iter().copied())
            .output();
        Ended::from(output.unwrap())
    }
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
