//! The job `examples/heat2d.rs` on the engine `local`: the same bits for every number of ranks and
//! threads.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ndarray::Array2;

const RANKS: [usize; 5] = [1, 2, 3, 5, 8];

/// The example, which `cargo test` has built beside this test.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let example = profile.join("examples").join(format!("heat2d{}", std::env::consts::EXE_SUFFIX));
    assert!(example.exists(), "build {} first: `cargo build --example heat2d`", example.display());
    example
}

/// Writes floats as `NumPy` does.
fn write_npy(to: &Path, field: &Array2<f64>) {
    let [rows, columns] = [field.nrows(), field.ncols()];
    let text =
        format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut bytes = [b"\x93NUMPY\x01\0\x76\0", format!("{text:117}\n").as_bytes()].concat();
    bytes.extend(field.iter().flat_map(|value| value.to_le_bytes()));
    fs::write(to, bytes).unwrap();
}

fn heat2d(arguments: &[&str], ranks: usize, threads: usize) -> Output {
    let mut command = Command::new(example());
    command.args(["--engine", "local", "-n", &ranks.to_string()]);
    command.args(["--threads", &threads.to_string()]).args(arguments);
    // The settings of whoever runs the tests are not the test's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SPMD_") {
            command.env_remove(name);
        }
    }
    command.output().unwrap()
}

fn passes(arguments: &[&str], ranks: usize, threads: usize) -> String {
    let output = heat2d(arguments, ranks, threads);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} on {ranks} ranks: {text}{errors}");
    assert!(text.contains("verification: passed ("), "{text}");
    text
}

/// What the program says behind a word at the beginning of a line.
fn said<'t>(text: &'t str, word: &str) -> &'t str {
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word} in {text}")).trim()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_field_is_bit_identical_for_every_number_of_ranks_and_threads() {
    for (size, steps) in
        [("61,47", "150"), ("3,3", "20"), ("1,40", "30"), ("40,1", "30"), ("1,1", "5")]
    {
        let arguments = ["--size", size, "--steps", steps];
        let first = passes(&arguments, 1, 1);
        for ranks in RANKS {
            for threads in [1, 2] {
                let text = passes(&arguments, ranks, threads);
                let same = said(&text, "checksum:") == said(&first, "checksum:");
                assert!(same, "size {size} on {ranks} ranks of {threads} threads: {text}{first}");
                assert_eq!(said(&text, "ranks x threads:"), format!("{ranks} x {threads}"));
            }
        }
    }
}

#[test]
fn files_are_the_same_for_every_number_of_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input.npy");
    let field = Array2::from_shape_fn((23, 31), |(row, column)| ((row * 31 + column) % 17) as f64);
    write_npy(&input, &field);
    let run = |ranks: usize| {
        let output = directory.path().join(format!("{ranks}.npy"));
        let picture = directory.path().join(format!("{ranks}.png"));
        let (to, drawn) = (text(&output), text(&picture));
        let arguments =
            ["--input", text(&input), "--steps", "40", "--output", to, "--picture", drawn];
        passes(&arguments, ranks, 1);
        (fs::read(&output).unwrap(), fs::read(&picture).unwrap())
    };
    let first = run(1);
    for ranks in RANKS {
        assert!(run(ranks) == first, "{ranks} ranks write other files than one");
    }
    let mut picture = png::Decoder::new(std::io::Cursor::new(&first.1)).read_info().unwrap();
    let mut pixels = vec![0; picture.output_buffer_size().unwrap()];
    let info = picture.next_frame(&mut pixels).unwrap();
    // 31 cells a row, enlarged 8 times.
    assert_eq!((info.height, info.width), (23 * 8, 31 * 8));

    // What was written is an input again: with no step it is the output.
    let again = directory.path().join("again.npy");
    let (from, to) = (directory.path().join("1.npy"), text(&again));
    passes(&["--input", text(&from), "--steps", "0", "--output", to], 3, 1);
    assert_eq!(fs::read(&again).unwrap(), first.0);
}

#[test]
fn a_wrong_result_exits_with_3_and_still_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("nan.npy");
    let mut field = Array2::zeros((8, 8));
    field[[3, 4]] = f64::NAN;
    write_npy(&input, &field);
    for ranks in [1, 3] {
        let output = heat2d(&["--input", text(&input), "--steps", "3"], ranks, 1);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("verification: FAILED ("), "{text}");
        assert_eq!(said(&text, "checksum:").len(), 16);
    }
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_computed() {
    let refused = |arguments: &[&str], code: i32, words: &[&str]| {
        // Computing these steps would take days.
        let forever = ["--size", "4000,4000", "--steps", "4000000000"];
        let arguments =
            [arguments, if arguments.contains(&"--size") { &[] } else { &forever }].concat();
        let output = heat2d(&arguments, 2, 1);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        for word in words {
            assert!(errors.contains(word), "{arguments:?}: no {word} in {errors}");
        }
        assert!(output.stdout.is_empty());
    };
    refused(&["--output", "field.txt"], 2, &["field.txt", "npy"]);
    refused(&["--picture", "field.jpg"], 2, &["field.jpg", "png"]);
    refused(&["--output", "field.npy:/x"], 2, &["field.npy"]);
    refused(&["--size", "0,4"], 2, &["400,600"]);
    refused(&["--size", "4,4", "--input", "a.npy"], 2, &["--size"]);
    refused(&["--output", "no/such/directory/field.npy"], 1, &["no/such/directory/field.npy"]);
    refused(&["--picture", "no/such/directory/field.png"], 1, &["no/such/directory/field.png"]);
    if cfg!(not(feature = "hdf5")) {
        refused(&["--output", "field.h5"], 2, &["field.h5", "--features hdf5"]);
    }
    let missing = heat2d(&["--input", "no_such_file.npy"], 2, 1);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no_such_file.npy"));
}

#[cfg(feature = "hdf5")]
#[test]
fn hdf5_files_hold_what_npy_files_hold() {
    let directory = tempfile::tempdir().unwrap();
    let size = ["--size", "19,14", "--steps", "10"];
    let name = |name: &str| text(&directory.path().join(name)).to_owned();
    passes(&[&size[..], &["--output", &name("a.npy")]].concat(), 1, 1);
    for ranks in RANKS {
        passes(&[&size[..], &["--output", &name("a.h5:/deep/field")]].concat(), ranks, 1);
        // The only dataset needs no name.
        let round = ["--steps", "0", "--input", &name("a.h5"), "--output", &name("b.npy")];
        passes(&round, ranks, 1);
        assert_eq!(fs::read(name("a.npy")).unwrap(), fs::read(name("b.npy")).unwrap());
    }
}

#[test]
fn real_terrain_creeps_alike_on_every_number_of_ranks() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let npy = shared.join("jacksboro_dem.npy");
    if !npy.exists() {
        println!("skipped: {} is not there", npy.display());
        return;
    }
    let run = |input: &str, ranks| passes(&["--steps", "50", "--input", input], ranks, 1);
    let first = run(text(&npy), 1);
    assert!(said(&first, "field:").starts_with("344 x 403 cells"), "{first}");
    for ranks in RANKS {
        assert_eq!(said(&run(text(&npy), ranks), "checksum:"), said(&first, "checksum:"));
    }
    if cfg!(feature = "hdf5") {
        let hdf5 = format!("{}:/elevation", shared.join("jacksboro_dem.h5").display());
        assert_eq!(said(&run(&hdf5, 3), "checksum:"), said(&first, "checksum:"));
    }
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[cfg(target_os = "linux")] // which shows what files a process has open
#[test]
fn no_signal_leaves_anything_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe.npy");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Nobody reads from the pipe: the job hangs when the file is complete but for its name.
    let start = || {
        let mut command = Command::new(example());
        command.args(["-n", "2", "--size", "9,9", "--steps", "1", "--output", text(&pipe)]);
        let quiet = || std::process::Stdio::null();
        command.env("TMPDIR", directory.path()).stdout(quiet()).stderr(quiet()).spawn().unwrap()
    };
    let whole = |file: &Path| {
        let inside = fs::read_link(file).is_ok_and(|path| path.starts_with(directory.path()));
        inside && fs::metadata(file).is_ok_and(|about| about.len() == 128 + 9 * 9 * 8)
    };
    // Not those of a terminal: what runs these tests in the background may have had them ignored,
    // and ignored they stay.
    for signal in ["TERM", "USR1", "KILL"] {
        let mut job = start();
        let open = format!("/proc/{}/fd", job.id());
        while !fs::read_dir(&open).unwrap().flatten().any(|file| whole(&file.path())) {
            assert!(job.try_wait().unwrap().is_none(), "the job has ended");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let kill =
            Command::new("kill").args([&format!("-{signal}"), &job.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let status = job.wait().unwrap();
        assert!(std::os::unix::process::ExitStatusExt::signal(&status).is_some(), "{status}");
        assert_eq!(names(directory.path()), ["pipe.npy"], "{signal}");
    }
    let mut job = start();
    assert!(fs::read(&pipe).unwrap().starts_with(b"\x93NUMPY"));
    assert!(job.wait().unwrap().success());
    assert_eq!(names(directory.path()), ["pipe.npy"]);
}

#[test]
fn a_file_beyond_the_limit_of_the_shell_is_refused_before_anything_is_computed() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("large.npy");
    let run = format!(
        "ulimit -f 10 && exec {} -n 2 --size 100,100 --steps 4000000000 --output {}",
        example().display(),
        output.display()
    );
    let ended = Command::new("sh").args(["-c", &run]).output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{errors}");
    assert!(errors.contains("large.npy: needs 80.1 kB, 5.1 kB allowed by `ulimit -f`"), "{errors}");
    assert!(names(directory.path()).is_empty());
}
