//! Elastic farms: workers and coordinators that come, go, freeze and are killed, strangers at the
//! door, and tasks that do harm. `--lease 100` stands where nobody is to be given up, however busy the
//! machine is.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

mod support;

use support::{
    example,
    farms::{Farm, LIMIT, Process, fact, until},
    program, run, spmd,
};

/// All workers end well.
#[track_caller]
fn all_end(workers: &mut [Process]) {
    for worker in workers {
        worker.ends_with(0);
    }
}

#[test]
fn workers_from_1_to_64_to_3_while_it_runs() {
    const TASKS: usize = 1500;
    let mut farm = Farm::new();
    let log = farm.file("log");
    let words = ["--tasks", "1500", "--log", log.to_str().unwrap(), "--lease", "100"];
    let (mut coordinator, address) = farm.serve(&words);
    let work = ["--slots", "1", "--millis", "30"];
    let mut workers = vec![farm.join(&address, &work)];
    farm.until_begun(5);
    for _ in 1..64 {
        workers.push(farm.join(&address, &work));
    }
    for worker in &workers {
        farm.until_begun_by(worker);
    }
    // In the middle of tasks, all at once: no task is blamed twice.
    let mut killed = workers.split_off(24);
    for worker in &killed {
        worker.signal(Signal::SIGKILL);
    }
    let mut left = workers.split_off(3);
    for worker in &left {
        worker.signal(Signal::SIGTERM);
    }
    for worker in &mut left {
        let said = worker.ends_with(0);
        assert!(said.contains("worked "), "{said}");
    }
    for worker in &mut killed {
        assert_eq!(worker.wait().signal(), Some(9));
    }
    let begun = farm.notes().len();
    assert!(begun < TASKS, "nothing is left to do for the last three: {begun} were begun");
    let said = coordinator.ends_with(0);
    all_end(&mut workers);
    assert_eq!((fact(&said, "done"), fact(&said, "workers")), (TASKS, 64), "{said}");
    let lost = fact(&said, "lost");
    assert!((1..=40).contains(&lost), "who leaves in order is not lost: {said}");
    assert!(!said.contains("aside"), "{said}");
}

#[test]
fn a_coordinator_that_is_killed_goes_on_from_its_log() {
    const TASKS: usize = 300;
    let mut farm = Farm::new();
    let log = farm.file("log");
    let words = ["--tasks", "300", "--log", log.to_str().unwrap(), "--lease", "100"];
    let (mut coordinator, address) = farm.serve(&words);
    // Slow enough that each worker is back before the others have done all.
    let work = ["--slots", "2", "--millis", "60"];
    let mut workers: Vec<Process> = (0..3).map(|_| farm.join(&address, &work)).collect();
    for round in 1..=3 {
        farm.until_begun(round * 40);
        coordinator.kill();
        coordinator = farm.serve_at(&address, &words).0;
    }
    let said = coordinator.ends_with(0);
    all_end(&mut workers);
    let [done, from_log, begun] = ["done", "from_log", "begun"].map(|name| fact(&said, name));
    assert_eq!(done, TASKS, "{said}");
    assert!(from_log > 0 && from_log < TASKS, "{said}");
    assert!(begun <= TASKS - from_log + fact(&said, "begun_again"), "{said}");

    // What is complete is not done again, and by nobody.
    let begun = farm.notes().len();
    let said = farm.serve(&words).0.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "from_log")), (TASKS, TASKS), "{said}");
    assert_eq!(farm.notes().len(), begun);
    // Another list of tasks, or another farm, has another log.
    for other in [["--tasks", "299", "--name", "squares"], ["--tasks", "300", "--name", "cubes"]] {
        let mut command = farm.command(&["--serve"]);
        let said = farm.start(command.args(&words[2..]).args(other)).ends_with(1);
        assert!(said.contains("of another list of tasks, or of another program"), "{said}");
    }
}

#[test]
fn a_coordinator_that_is_asked_to_stop_can_be_continued() {
    let mut farm = Farm::new();
    let log = farm.file("log");
    let words = ["--tasks", "60", "--log", log.to_str().unwrap(), "--lease", "100"];
    let (mut coordinator, address) = farm.serve(&words);
    let mut worker = farm.join(&address, &["--slots", "1", "--millis", "20"]);
    farm.until_begun(20);
    coordinator.signal(Signal::SIGTERM);
    let said = coordinator.ends_with(5);
    assert!(said.contains("stopped (SIGTERM) with ") && said.contains("goes on"), "{said}");
    let said = farm.serve_at(&address, &words).0.ends_with(0);
    assert!(fact(&said, "done") == 60 && fact(&said, "from_log") > 0, "{said}");
    worker.ends_with(0);
    // Without a log nothing is promised.
    let (mut coordinator, _) = farm.serve(&["--tasks", "60"]);
    coordinator.signal(Signal::SIGTERM);
    let said = coordinator.ends_with(1);
    assert!(said.contains("help: with --log FILE it can be continued"), "{said}");
}

#[test]
fn a_worker_that_freezes_is_given_up_and_may_come_back() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "60", "--lease", "2"]);
    let work = ["--slots", "1", "--millis", "50", "--patience", "100"];
    let mut frozen = farm.join(&address, &work);
    farm.until_begun_by(&frozen);
    frozen.signal(Signal::SIGSTOP);
    let mut other = farm.join(&address, &work);
    other.ends_with(0);
    // All is done without it. It is told so, and what it brings is late; or it is too late for that.
    frozen.signal(Signal::SIGCONT);
    let said = coordinator.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "workers")), (60, 2), "{said}");
    assert!(fact(&said, "lost") >= 1 && fact(&said, "begun_again") >= 1, "{said}");
    // On a machine that is very busy it does not come in time.
    if fact(&said, "late") > 0 {
        frozen.ends_with(0);
    }
}

#[test]
fn a_worker_that_freezes_for_less_than_its_lease_is_kept() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "20", "--lease", "60"]);
    let mut worker = farm.join(&address, &["--slots", "1", "--millis", "20"]);
    farm.until_begun_by(&worker);
    worker.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(2));
    worker.signal(Signal::SIGCONT);
    let said = coordinator.ends_with(0);
    let facts = ["done", "lost", "workers", "begun"].map(|name| fact(&said, name));
    assert_eq!(facts, [20, 0, 1, 20], "{said}");
    worker.ends_with(0);
}

#[test]
fn a_coordinator_that_freezes_accuses_nobody() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "60", "--lease", "4"]);
    let work = ["--slots", "1", "--millis", "100", "--patience", "100"];
    let mut workers: Vec<Process> = (0..2).map(|_| farm.join(&address, &work)).collect();
    for worker in &workers {
        farm.until_begun_by(worker);
    }
    coordinator.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(6));
    coordinator.signal(Signal::SIGCONT);
    let said = coordinator.ends_with(0);
    // The workers have given it up, and are back.
    assert_eq!((fact(&said, "done"), fact(&said, "workers")), (60, 2), "{said}");
    assert!(!said.contains("aside"), "{said}");
    all_end(&mut workers);
}

#[test]
fn tasks_that_kill_or_fail_are_set_aside() {
    let mut farm = Farm::new();
    let words = ["--tasks", "40", "--poison", "2", "--lease", "100"];
    let (mut coordinator, address) = farm.serve(&words);
    let work = ["--slots", "2", "--millis", "20", "--deadly", "7", "--failing", "5,30"];
    let mut workers: Vec<Process> = (0..4).map(|_| farm.join(&address, &work)).collect();
    let said = coordinator.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "lost")), (37, 2), "{said}");
    let aside: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("aside ")).collect();
    assert_eq!(aside.len(), 3, "{said}");
    assert_eq!(aside[0].matches("5 is a bad number").count(), 2, "{said}");
    assert_eq!(aside[1].matches("was lost while it ran this").count(), 2, "{said}");
    assert!(aside[1].starts_with("7 ") && aside[2].starts_with("30 "), "{said}");
    let died = workers.iter_mut().filter_map(|worker| worker.wait().signal()).count();
    assert_eq!(died, 2, "two workers die of task 7, and no more");
}

#[test]
fn a_task_that_nobody_can_do_is_set_aside_by_one_worker_alone() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "3", "--lease", "100"]);
    let mut worker = farm.join(&address, &["--slots", "1", "--failing", "1"]);
    let said = coordinator.ends_with(0);
    assert!(fact(&said, "done") == 2 && said.contains("aside 1 failed on "), "{said}");
    let said = worker.ends_with(0);
    assert!(said.contains("worked 2 failed 3"), "{said}");
}

#[test]
fn results_are_large_and_no_larger_than_is_allowed() {
    let mut farm = Farm::new();
    let words = ["--tasks", "6", "--lease", "100", "--max-message", "8", "--poison", "1"];
    let (mut coordinator, address) = farm.serve(&words);
    let mut large = farm.join(&address, &["--slots", "2", "--bytes", "8000000"]);
    let said = coordinator.ends_with(0);
    assert_eq!(fact(&said, "done"), 6, "{said}");
    large.ends_with(0);
    let (mut coordinator, address) = farm.serve(&words);
    let mut too_large = farm.join(&address, &["--slots", "2", "--bytes", "9000000"]);
    let said = coordinator.ends_with(0);
    assert_eq!(fact(&said, "done"), 0, "{said}");
    assert!(said.contains("its result has 9000"), "{said}");
    too_large.ends_with(0);
}

#[test]
fn results_that_a_continued_coordinator_does_not_take_are_failures() {
    let mut farm = Farm::new();
    let log = farm.file("log");
    let words = ["--tasks", "4", "--poison", "1", "--lease", "100", "--log", log.to_str().unwrap()];
    let (mut coordinator, address) = farm.serve(&words);
    let gate = farm.file("gate");
    let work = ["--slots", "4", "--bytes", "5000000", "--millis", "500"];
    let mut worker =
        farm.join(&address, &[&work[..], &["--gate", gate.to_str().unwrap()]].concat());
    until("all are begun", || farm.notes().len() == 4);
    // Some are done for nobody, and one is begun for the first coordinator and done for the second.
    coordinator.kill();
    thread::sleep(Duration::from_secs(1));
    let smaller = [&words[..], &["--max-message", "1"]].concat();
    let mut coordinator = farm.serve_at(&address, &smaller).0;
    fs::write(&gate, "").unwrap();
    let said = coordinator.ends_with(0);
    let aside = said.lines().filter(|line| line.starts_with("aside ")).count();
    assert_eq!((fact(&said, "done") + aside, said.contains("aside 0 ")), (4, true), "{said}");
    assert!(aside > 1 && said.contains("its result has 5000"), "{said}");
    worker.ends_with(0);
}

#[test]
fn workers_that_do_not_belong_are_refused_and_told_why() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "4", "--lease", "100"]);
    let mut refused = |words: &[&str], code, why: &str| {
        let said = farm.join(&address, words).ends_with(code);
        assert!(said.contains(why), "{said}");
    };
    refused(&["--name", "cubes"], 1, r#"it computes "cubes", the coordinator "squares""#);

    // Another token, with the coordinator's certificate.
    let token = farm.file("token");
    let text = fs::read_to_string(&token).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let wrong = format!("token {}\n{rest}", "0".repeat(first.len() - "token ".len()));
    let mut with_file = |name: &str, text: &str, mode: u32, why: &str| {
        let file = farm.file(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = program(example("elastic"));
        command.args(["--join", &address, "--token-file"]).arg(file);
        let said = farm.start(&mut command).ends_with(1);
        assert!(said.contains(why), "{said}");
    };
    with_file("wrong", &wrong, 0o600, "does not show this coordinator's token");
    with_file("open", &text, 0o644, "others may read it");
    with_file("nonsense", "a token", 0o600, "is no token file");
    // Another coordinator's file: a worker does not show its token to somebody else.
    let mut other = Farm::new();
    let (_other_coordinator, _) = other.serve(&[]);
    let others = fs::read_to_string(other.file("token")).unwrap();
    with_file("others", &others, 0o600, "not the one that has made the token file");

    let mut worker = farm.join(&address, &[]);
    let said = coordinator.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "workers")), (4, 1), "{said}");
    worker.ends_with(0);
}

#[test]
fn what_is_said_wrongly_is_told() {
    let mut farm = Farm::new();
    let mut told = |words: &[&str], code, why: &str| {
        let said = farm.start(program(example("elastic")).args(words)).ends_with(code);
        assert!(said.contains(why), "{said}");
    };
    told(&["--serve"], 2, "--token-file");
    told(&["--join", "127.0.0.1:1"], 2, "--token-file");
    told(&["--join", "127.0.0.1:1", "--serve", "--token-file", "x"], 2, "cannot be used with");
    told(&["--lease", "0"], 2, "a lease is 0.2 to 86400 seconds");
    let file = farm.file("token");
    let mut told = |words: &[&str], why: &str| {
        let mut command = program(example("elastic"));
        let said = farm.start(command.args(words).arg("--token-file").arg(&file)).ends_with(1);
        assert!(said.contains(why), "{said}");
    };
    told(&["--serve", "0.0.0.0:0"], "every network of this host");
    told(&["--serve", "[::]:0"], "every network of this host");
    told(&["--serve", "nonsense"], "nonsense is no address");
    told(&["--serve", "192.0.2.1:0"], "name an address of this host");
}

#[test]
fn a_worker_may_be_there_before_its_coordinator() {
    let mut farm = Farm::new();
    // A port that was free just now.
    let (mut first, address) = farm.serve(&["--tasks", "0"]);
    first.ends_with(0);
    fs::remove_file(farm.file("token")).unwrap();
    let mut worker = farm.join(&address, &["--patience", "100"]);
    thread::sleep(Duration::from_millis(300));
    let (mut coordinator, _) = farm.serve_at(&address, &["--tasks", "5", "--lease", "100"]);
    assert_eq!(fact(&coordinator.ends_with(0), "done"), 5);
    worker.ends_with(0);
}

#[test]
fn workers_run_out_of_patience() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "1000"]);
    let work = ["--millis", "10", "--slots", "1", "--patience", "0.5"];
    let mut workers = vec![farm.join(&address, &work)];
    workers.push(farm.join(&address, &[&work[..], &["-n", "3"]].concat()));
    for worker in &workers {
        farm.until_begun_by(worker);
    }
    coordinator.kill();
    for worker in &mut workers {
        let said = worker.ends_with(1);
        assert!(said.contains("has not answered for 0.5 s"), "{said}");
    }
}

#[test]
fn a_world_of_ranks_is_one_worker() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "50", "--lease", "100"]);
    let mut world = farm.join(&address, &["-n", "3", "--failing", "9"]);
    let said = coordinator.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "workers")), (49, 1), "{said}");
    assert!(
        said.contains("aside 9 failed on ") && said.contains("on rank 1: rank 1 does"),
        "{said}"
    );
    assert!(world.ends_with(0).contains("worked 49 failed 3"), "{}", world.said());
}

#[test]
fn a_world_that_is_asked_to_stop_leaves_in_order() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "200", "--lease", "100"]);
    let mut world = farm.join(&address, &["-n", "2", "--millis", "10"]);
    farm.until_begun_by(&world);
    world.signal(Signal::SIGTERM);
    world.ends_with(0);
    let mut other = farm.join(&address, &["--slots", "4"]);
    let said = coordinator.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "lost")), (200, 0), "{said}");
    assert_eq!(fact(&said, "begun"), 200, "{said}");
    other.ends_with(0);
}

#[test]
fn spmd_join_makes_a_program_a_worker() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "30", "--lease", "100"]);
    let mut command = spmd();
    command.args(["join", &address, "--slots", "3", "--patience", "50", "--token-file"]);
    command.arg(farm.file("token")).arg(example("elastic")).args(["--millis", "1"]);
    // What a coordinator was told of itself is not for its workers.
    let mut worker = farm.start(command.env("SPMD_ELASTIC_SERVE", "127.0.0.1:0"));
    let said = coordinator.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "workers")), (30, 1), "{said}");
    assert!(worker.ends_with(0).contains("worked 30 failed 0"));
}

#[test]
fn alone_it_gives_the_same_results() {
    let farm = Farm::new();
    let mut command = program(example("elastic"));
    command.args(["--tasks", "100", "--slots", "3", "--failing", "8", "--notes"]);
    let said = support::run(command.arg(farm.file("notes")), LIMIT).success().stdout;
    assert_eq!((fact(&said, "done"), fact(&said, "begun")), (99, 100), "{said}");
    assert!(said.contains("aside 8 8 is a bad number"), "{said}");
    until("all were begun", || farm.notes().len() == 100);
}

/// It was told to leave, but what it has done nobody takes: it leaves within the time that batch systems
/// give.
#[test]
fn a_worker_that_leaves_does_not_wait_long_for_a_coordinator() {
    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "100", "--lease", "100"]);
    let mut worker = farm.join(&address, &["--slots", "1", "--millis", "300"]);
    farm.until_begun_by(&worker);
    coordinator.kill();
    worker.signal(Signal::SIGTERM);
    let began = Instant::now();
    let said = worker.ends_with(1);
    assert!(said.contains("results of ") && said.contains("could not be told"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(25), "{said}");
}

#[test]
fn a_token_file_that_never_comes_is_named() {
    let farm = Farm::new();
    let words = ["--join", "127.0.0.1:5", "--patience", "0.3"];
    let ending = run(&mut farm.command(&words), LIMIT).code(1);
    let file = farm.file("token").display().to_string();
    assert!(ending.stderr.contains("waiting for the token file"), "{ending:?}");
    assert!(ending.stderr.contains(&format!("cannot read {file}")), "{ending:?}");
    assert!(!ending.stderr.contains("has not answered"), "it was not asked: {ending:?}");
}
