//! The programs in `examples/`: small sizes of them pass their own verification on any number of
//! ranks, and what they verify by can fail. (`tests/heat2d.rs` is about that one.)

#![allow(clippy::duplicate_mod)] // each program has `common` as a module of its own

mod support;

use std::time::Duration;

use support::{Ending, example, program};

// Their own functions, of which a part is tried here.
#[allow(dead_code)]
#[path = "../examples/cg.rs"]
mod cg;
#[allow(dead_code)]
#[path = "../examples/common/mod.rs"]
mod common;
#[cfg(feature = "elastic")]
#[allow(dead_code)]
#[path = "../examples/elastic_farm.rs"]
mod elastic_farm;
#[allow(dead_code)]
#[path = "../examples/ep.rs"]
mod ep;
#[allow(dead_code)]
#[path = "../examples/hello.rs"]
mod hello;
#[allow(dead_code)]
#[path = "../examples/is.rs"]
mod is;
#[allow(dead_code)]
#[path = "../examples/life.rs"]
mod life;
#[allow(dead_code)]
#[path = "../examples/mandelbrot.rs"]
mod mandelbrot;
#[allow(dead_code)]
#[path = "../examples/nbody.rs"]
mod nbody;
#[allow(dead_code)]
#[path = "../examples/pi.rs"]
mod pi;
#[cfg(feature = "fft")]
#[allow(dead_code)]
#[path = "../examples/poisson.rs"]
mod poisson;
#[allow(dead_code)]
#[path = "../examples/resilient_heat2d.rs"]
mod resilient_heat2d;
#[allow(dead_code)]
#[path = "../examples/ring.rs"]
mod ring;
#[allow(dead_code)]
#[path = "../examples/samplesort.rs"]
mod samplesort;
#[allow(dead_code)]
#[path = "../examples/stencil.rs"]
mod stencil;
#[allow(dead_code)]
#[path = "../examples/transpose.rs"]
mod transpose;
#[allow(dead_code)]
#[path = "../examples/wavefront.rs"]
mod wavefront;

/// No job of these tests needs as long: one that does, hangs.
const LIMIT: Duration = Duration::from_secs(300);
const RANKS: [usize; 4] = [1, 2, 3, 8];

fn on_local(name: &str, arguments: &[&str], ranks: usize) -> Ending {
    let mut command = program(example(name));
    command.args(["--engine", "local", "-n", &ranks.to_string()]).args(arguments);
    support::run(&mut command, LIMIT)
}

#[cfg(feature = "mpi")]
fn on_mpi(name: &str, arguments: &[&str], ranks: usize) -> Ending {
    let _seat = support::beside_others();
    support::run(support::mpirun(ranks, &example(name)).args(arguments), LIMIT)
}

/// What the program has printed: it ended well, and its last line says that the result is right.
#[track_caller]
fn passes(ending: Ending) -> String {
    let out = ending.success().stdout;
    let last = out.lines().last().unwrap_or_default();
    assert!(last.starts_with("verification: passed ("), "{out}");
    out
}

/// A test of each program on each engine, with its arguments for a small size.
macro_rules! programs_pass {
    ($($(#[$condition:meta])? $name:ident: [$($argument:literal),*],)*) => {
        mod on_local {
            use super::{RANKS, on_local, passes};
            $($(#[$condition])?
            #[test]
            fn $name() {
                for ranks in RANKS {
                    passes(on_local(stringify!($name), &[$($argument),*], ranks));
                }
            })*
        }

        #[cfg(feature = "mpi")]
        mod on_mpi {
            use super::{RANKS, on_mpi, passes, support::side_by_side};
            $($(#[$condition])?
            #[test]
            fn $name() {
                side_by_side(&RANKS, |&ranks| {
                    passes(on_mpi(stringify!($name), &[$($argument),*], ranks));
                });
            })*
        }
    };
}

programs_pass! {
    cg: ["--class", "S"],
    #[cfg(feature = "elastic")]
    elastic_farm: ["--size", "8", "--together"],
    ep: ["--class", "S"],
    hello: [],
    is: ["--class", "S"],
    life: ["--pattern", "glider", "--size", "13"],
    mandelbrot: ["--size", "64", "--steps", "100"],
    nbody: ["--bodies", "101", "--steps", "4"],
    pi: ["--strips", "100001"],
    #[cfg(feature = "fft")]
    poisson: ["--size", "12,10,7"],
    resilient_heat2d: ["--cells", "31", "--steps", "12", "--commit", "3"],
    ring: ["--laps", "25", "--numbers", "5000"],
    samplesort: ["--elements", "20011", "--skew", "9"],
    stencil: ["--size", "37", "--iterations", "5"],
    transpose: ["--order", "67", "--iterations", "4"],
    wavefront: ["--columns", "23", "--rows", "31", "--iterations", "4"],
}

#[test]
fn hello_speaks_of_every_rank_in_order() {
    let out = passes(on_local("hello", &["--threads", "2"], 3));
    let greetings: Vec<&str> =
        out.lines().filter(|line| line.starts_with("hello from rank")).collect();
    assert_eq!(greetings.len(), 3, "{out}");
    for (rank, line) in greetings.iter().enumerate() {
        assert!(line.starts_with(&format!("hello from rank {rank} of 3 on ")), "{out}");
        assert!(line.ends_with("threads: 2"), "{out}");
    }
}

#[test]
fn nbody_gives_the_same_bits_on_any_number_of_ranks_and_threads() {
    let lines = |ranks, threads| {
        let arguments = ["--bodies", "203", "--steps", "5", "--threads", threads];
        let out = passes(on_local("nbody", &arguments, ranks));
        let found: Vec<_> = ["energy: ", "checksum: "]
            .map(|word| out.lines().find(|line| line.starts_with(word)).unwrap().to_owned())
            .into();
        found
    };
    let first = lines(1, "1");
    for (ranks, threads) in [(1, "2"), (2, "1"), (3, "2"), (5, "1"), (8, "1")] {
        assert_eq!(lines(ranks, threads), first, "{ranks} ranks of {threads} threads");
    }
}

#[test]
fn mandelbrot_draws_the_same_picture_on_any_number_of_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let draw = |ranks: usize| {
        let file = directory.path().join(format!("{ranks}.png"));
        let name = file.to_str().unwrap();
        // Not a size whose sum is known.
        let out = passes(on_local(
            "mandelbrot",
            &["--size", "37", "--steps", "50", "--picture", name],
            ranks,
        ));
        assert!(out.contains("own mirror image"), "{out}");
        (std::fs::read(&file).unwrap(), out.lines().last().unwrap().to_owned())
    };
    let first = draw(1);
    assert!(first.0.starts_with(b"\x89PNG"));
    for ranks in [2, 3, 8] {
        assert!(draw(ranks) == first, "{ranks} ranks draw another picture");
    }
    let nowhere = on_local("mandelbrot", &["--picture", "no/such/directory/m.png"], 2).code(1);
    assert!(nowhere.stderr.contains("no/such/directory/m.png"), "{}", nowhere.stderr);
    assert!(!nowhere.stdout.contains("time"), "{}", nowhere.stdout);
}

#[test]
fn there_may_be_more_ranks_than_elements() {
    passes(on_local("transpose", &["--order", "3", "--iterations", "2"], 8));
    passes(on_local("pi", &["--strips", "3"], 8));
    passes(on_local("nbody", &["--bodies", "3", "--steps", "2"], 8));
    for elements in ["0", "1", "5"] {
        passes(on_local("samplesort", &["--elements", elements], 8));
    }
}

#[test]
fn what_cannot_be_done_is_a_usage_error() {
    let refused = |name: &str, arguments: &[&str], words: &str| {
        let ending = on_local(name, arguments, 8).code(2);
        assert!(ending.stderr.contains(words), "{name} {arguments:?}: {}", ending.stderr);
        assert!(!ending.stdout.contains("verification"), "{}", ending.stdout);
    };
    for name in ["cg", "ep", "is"] {
        refused(name, &["--class", "X"], "possible values: S, W, A, B");
    }
    refused("life", &["--size", "100"], "needs a torus of 640 cells");
    refused("stencil", &["--size", "4"], "--size");
    refused("wavefront", &["--columns", "8"], "8 ranks need 9 columns at least");
    refused("samplesort", &["--skew", "0.5"], "give a number from 1");
    refused("samplesort", &["--skew", "NaN"], "give a number from 1");
    refused("transpose", &["--order", "0"], "--order");
    refused("ring", &["--laps", "0"], "--laps");
    refused("pi", &["--strips", "0"], "--strips");
    refused("nbody", &["--bodies", "1"], "--bodies");
    refused("mandelbrot", &["--picture", "m.jpg"], "png");
}

#[test]
fn a_wrong_result_exits_with_3() {
    let codes = spmd::local(3, |world| {
        let ended = common::conclude(world, 1.0, "1 per s", Err("wrong".to_owned()));
        Ok(ended.unwrap_err().exit_code())
    });
    assert_eq!(codes.unwrap(), [3; 3]);
}

#[test]
fn ep_finds_a_wrong_sum_and_a_pair_that_is_lost() {
    use ep::{Tally, npb::Class, published, verify};
    for class in [Class::S, Class::W, Class::A, Class::B] {
        let (sums, pairs) = published(class);
        let mut right = Tally { sums, pairs, ..Tally::default() };
        right.annuli[0] = pairs;
        verify(class, &right).unwrap();
        for at in 0..2 {
            let mut wrong = right;
            wrong.sums[at] *= 1.0 + 2e-8;
            verify(class, &wrong).unwrap_err();
            wrong.sums[at] = f64::NAN;
            verify(class, &wrong).unwrap_err();
        }
        verify(class, &Tally { pairs: pairs - 1, ..right }).unwrap_err();
        let mut wrong = right;
        wrong.annuli[9] = 1;
        verify(class, &wrong).unwrap_err();
    }
}

#[test]
fn is_finds_a_wrong_rank_and_wrong_order() {
    use is::{npb::Class, verify};
    verify(Class::S, 50, true).unwrap();
    verify(Class::S, 49, true).unwrap_err();
    verify(Class::S, 50, false).unwrap_err();
}

#[test]
fn the_small_programs_find_what_is_wrong() {
    let greeting = |rank| hello::Greeting { rank, host: String::new(), threads: 1 };
    hello::verify(&[greeting(0), greeting(1)], 2).unwrap();
    hello::verify(&[greeting(1), greeting(0)], 2).unwrap_err();
    hello::verify(&[greeting(0)], 2).unwrap_err();

    ring::verify(&[9, 9], 3, 3).unwrap();
    ring::verify(&[9, 8], 3, 3).unwrap_err();

    pi::verify(std::f64::consts::PI + 8e-4, 0.1).unwrap();
    for wrong in [3.1414, f64::NAN] {
        pi::verify(wrong, 0.01).unwrap_err();
    }

    life::verify(life::Pattern::RPentomino, 116, false).unwrap();
    life::verify(life::Pattern::RPentomino, 115, true).unwrap_err();
    life::verify(life::Pattern::Glider, 5, true).unwrap();
    life::verify(life::Pattern::Glider, 5, false).unwrap_err();

    stencil::verify(42.0, 20).unwrap();
    for wrong in [42.1, f64::NAN] {
        stencil::verify(wrong, 20).unwrap_err();
    }

    #[cfg(feature = "fft")]
    {
        poisson::verify(1e-15).unwrap();
        poisson::verify(1e-11).unwrap_err();
        poisson::verify(f64::NAN).unwrap_err();
    }

    #[cfg(feature = "elastic")]
    {
        use elastic_farm::{Board, boards, known, verify};
        for size in 1..=9 {
            let ways = |depth| boards(size, depth).into_iter().map(Board::count).sum();
            assert_eq!((known(size), known(size)), (Some(ways(0)), Some(ways(3))), "{size}");
        }
        verify(12, 14_200).unwrap();
        verify(12, 14_199).unwrap_err();
    }

    transpose::verify(0.0).unwrap();
    wavefront::verify(708.0, 708.0).unwrap();
    for wrong in [1e-6, f64::NAN] {
        transpose::verify(wrong).unwrap_err();
        wavefront::verify(708.0 + wrong * 100.0, 708.0).unwrap_err();
    }
}

#[test]
fn cg_finds_a_wrong_eigenvalue() {
    use cg::{npb::Class, problem, verify};
    for class in [Class::S, Class::W, Class::A, Class::B] {
        let zeta = problem(class).zeta;
        verify(class, zeta).unwrap();
        verify(class, zeta * (1.0 + 2e-10)).unwrap_err();
        verify(class, f64::NAN).unwrap_err();
    }
}

#[test]
fn nbody_finds_energy_and_momentum_that_change() {
    let before = [-0.5, 0.0, 0.1, -0.1];
    nbody::verify(before, before).unwrap();
    for at in 0..4 {
        for change in [1e-3, f64::NAN] {
            let mut after = before;
            after[at] += change;
            nbody::verify(before, after).unwrap_err();
        }
    }
}

#[test]
fn mandelbrot_finds_a_wrong_pixel() {
    let right = ndarray::Array2::from_elem((4, 4), 7);
    mandelbrot::verify(&right, 10).unwrap();
    let mut wrong = right;
    wrong[[1, 2]] = 8;
    mandelbrot::verify(&wrong, 10).unwrap_err();
    // Its own mirror image, and not the picture that is known.
    let wrong = ndarray::Array2::from_elem((64, 64), 29);
    mandelbrot::verify(&wrong, 100).unwrap_err();
}

#[test]
fn samplesort_finds_disorder_loss_and_change() {
    use samplesort::{Found, sample_sort, verify};
    let right = Found { count: 5, change: 0, in_order: true };
    verify(5, &right).unwrap();
    verify(5, &Found { count: 4, ..right }).unwrap_err();
    verify(5, &Found { change: 1, ..right }).unwrap_err();
    verify(5, &Found { in_order: false, ..right }).unwrap_err();

    // Equal elements only, all on one rank: they are shared out all the same.
    let counts = spmd::local(4, |world| {
        let mine = vec![[7_u8, 1]; if world.rank() == 2 { 4000 } else { 0 }];
        let sorted = sample_sort(world, mine, Ord::cmp)?;
        assert!(sorted.iter().all(|element| *element == [7, 1]));
        Ok(sorted.len())
    });
    let counts = counts.unwrap();
    assert_eq!(counts.iter().sum::<usize>(), 4000);
    assert!(counts.iter().all(|&count| count <= 1125), "{counts:?}");
}

/// Every command in the gallery is of a program that is there, and is one that clap accepts.
#[test]
fn the_gallery_shows_the_programs_that_there_are() {
    let gallery = include_str!("../examples/README.md");
    let commands: Vec<Vec<&str>> = gallery
        .split('`')
        .filter_map(|text| text.strip_prefix("cargo run --release "))
        .filter_map(|command| {
            let command = command.trim_start_matches("--features fft ");
            command.trim_start_matches("--features elastic ").strip_prefix("--example ")
        })
        .map(|command| command.split_whitespace().collect())
        .collect();
    assert!(commands.len() >= 9, "{commands:?}");
    for command in &commands {
        let (name, arguments) = command.split_first().expect("a name");
        let is_built = match *name {
            "elastic_farm" => cfg!(feature = "elastic"),
            "poisson" => cfg!(feature = "fft"),
            _ => true,
        };
        if !is_built {
            continue;
        }
        let arguments = arguments.strip_prefix(&["--"]).unwrap_or(arguments);
        let mut job = program(example(name));
        support::run(job.args(arguments).arg("--help"), LIMIT).success();
    }
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|suffix| suffix == "rs") {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap();
            assert!(
                commands.iter().any(|command| command[0] == name),
                "{name} is not in the gallery"
            );
        }
    }
}

/// Ranks of `resilient_heat2d` are lost at calls of theirs, of several epochs, and while it ends: the
/// checksum is that of a run that nobody disturbed.
#[test]
fn a_program_that_loses_ranks_has_the_same_result() {
    let size = ["--cells", "31", "--steps", "40", "--commit", "5", "--give-up", "9"];
    let with = |more: &[&str], ranks| {
        let out = passes(on_local("resilient_heat2d", &[&size[..], more].concat(), ranks));
        out.lines()
            .find(|line| line.contains("checksum"))
            .unwrap()
            .rsplit_once(' ')
            .unwrap()
            .1
            .to_owned()
    };
    let undisturbed = with(&[], 1);
    for losses in ["2@150", "0@90, 1+2@60/1, 3@9/2", "random:4:3:200"] {
        for on_loss in ["respawn", "shrink"] {
            assert_eq!(
                with(&["--inject", losses, "--on-loss", on_loss], 4),
                undisturbed,
                "{losses}"
            );
        }
    }
}

/// How it ends when it cannot be repaired, and what it says.
#[test]
fn a_program_that_cannot_go_on_says_why() {
    let run = |more: &[&str]| {
        let size = ["--cells", "31", "--steps", "4000", "--commit", "5"];
        on_local("resilient_heat2d", &[&size[..], more].concat(), 3)
    };
    let ending = run(&["--inject", "1@90", "--on-loss", "shrink", "--min-ranks", "3"]);
    assert_eq!(ending.code, Some(4), "{ending:?}");
    assert!(ending.stderr.contains("rank 1 was lost: as --inject asks for"), "{ending:?}");
    assert!(ending.stderr.contains("2 of 3 ranks are left"), "{ending:?}");
    let ending = run(&["--inject", "random:1:9:4", "--give-up", "2"]);
    assert_eq!(ending.code, Some(1), "{ending:?}");
    assert!(ending.stderr.contains("the program is at fault"), "{ending:?}");
    let ending = run(&["--inject", "1@never"]);
    assert_eq!(ending.code, Some(2), "{ending:?}");
    assert!(ending.stderr.contains("give RANKS@CALL"), "{ending:?}");
}
