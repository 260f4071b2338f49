//! What is done to the hosts of a run, and when: beside it, on the host where one types.

use std::{
    env, fs,
    io::Read,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::story::{Deed, Host, Sample, Story};

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long the run works undisturbed between two deeds.
const PEACE: Duration = Duration::from_secs(4);

/// After so long something is wrong.
const PATIENCE: Duration = Duration::from_secs(240);

#[derive(clap::Args)]
pub(crate) struct Director {
    /// The script that has made the hosts
    script: PathBuf,
    /// A directory that all hosts share
    place: PathBuf,
    #[arg(long)]
    cells: u32,
}

/// A scene: so many ranks work, then something is done.
struct Scene {
    ranks: usize,
    host: &'static str,
    what: &'static str,
    /// Arguments of the script, and of `spmd`.
    script: Option<&'static [&'static str]>,
    spmd: Option<&'static [&'static str]>,
}

const SCENES: [Scene; 3] = [
    Scene {
        ranks: 4,
        host: "node3",
        what: "crashes, like a machine without power",
        script: Some(&["crash", "node3"]),
        spmd: None,
    },
    Scene {
        ranks: 3,
        host: "node2",
        what: "is drained for maintenance (spmd drain node2)",
        script: None,
        spmd: Some(&["drain", "node2"]),
    },
    Scene {
        ranks: 2,
        host: "node5",
        what: "is a new machine (spmd add node5:1)",
        script: Some(&["add", "node5"]),
        spmd: Some(&["add", "node5:1"]),
    },
];

/// Ranks that work in the end.
const LAST: usize = 3;

/// Runs the program, does what is to be done to its hosts, and tells the story as JSON.
///
/// # Errors
/// In words.
pub(crate) fn direct(director: &Director) -> Result<String, String> {
    let own = env::current_exe().map_err(|error| format!("where am I? {error}"))?;
    let spmd = |words: &[&str]| {
        let mut command = Command::new(&own);
        command.args(words).env("XDG_RUNTIME_DIR", &director.place).stdin(Stdio::null());
        command
    };
    let enough = director.place.join("enough");
    let mut command = spmd(&["run", "--hosts", "node[1-4]:1", "--restarts", "9"]);
    command.arg(&own).args(["tour-survivor", "--cells", &director.cells.to_string()]);
    command.arg("--until").arg(&enough).arg("--checkpoint").arg(director.place.join("kept"));
    command.args(["--every", "0.5s"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut run = Run(command.spawn().map_err(|error| format!("spmd run: {error}"))?);
    let (out, said) = (run.0.stdout.take().map(text_of), run.0.stderr.take().map(text_of));

    let mut story = Story::default();
    let mut scenes = SCENES.iter();
    let mut scene = scenes.next();
    let mut peace: Option<Instant> = None;
    let status = loop {
        if let Ok(Some(status)) = run.0.try_wait() {
            break status;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("the run is not over after {} s: {story:?}", PATIENCE.as_secs()));
        }
        thread::sleep(LOOK);
        let Ok(told) = spmd(&["status", "--json"]).stderr(Stdio::null()).output() else { continue };
        let Some(sample) = sample(&told.stdout, began.elapsed().as_secs_f64()) else { continue };
        let wanted = scene.map_or(LAST, |scene| scene.ranks);
        let settled = sample.works && sample.ranks == wanted && sample.kept.is_some();
        story.samples.push(sample);
        peace = settled.then(|| peace.unwrap_or_else(Instant::now));
        if peace.is_none_or(|since| since.elapsed() < PEACE) {
            continue;
        }
        peace = None;
        let at_s = began.elapsed().as_secs_f64();
        let Some(now) = scene else {
            fs::write(&enough, "").map_err(|error| format!("{}: {error}", enough.display()))?;
            continue;
        };
        let (what, host) = (now.what.to_owned(), now.host.to_owned());
        story.deeds.push(Deed { at_s, what, host });
        if let Some(words) = now.script {
            let mut command = Command::new("bash");
            done(command.arg(&director.script).args(words))?;
        }
        if let Some(words) = now.spmd {
            done(&mut spmd(words))?;
        }
        scene = scenes.next();
    };
    story.ended_s = began.elapsed().as_secs_f64();
    story.code = status.code();
    let text = |reader: Option<JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    (story.out, story.said) = (text(out), text(said));
    serde_json::to_string(&story).map_err(|error| error.to_string())
}

/// A run that ends with this.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended; what it has started ends with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All that is said there, until it ends.
fn text_of(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = from.read_to_end(&mut text); // what can be had of it
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn done(command: &mut Command) -> Result<(), String> {
    let ended = command.stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if ended.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(format!("{} {:?}: {why}", command.get_program().display(), command.get_args()))
}

/// What `spmd status --json` tells.
fn sample(text: &[u8], at_s: f64) -> Option<Sample> {
    /// A program that has told no step for so long makes none.
    const STILL: f64 = 1.0;
    let told: Value = serde_json::from_slice(text).ok()?;
    let number = |value: &Value| value.as_u64();
    let step = number(&told["step"]);
    let works = told["state"] == "running" && step.is_some() && told["told_s"].as_f64()? < STILL;
    let host = |host: &Value| {
        let is = match host["state"].as_str()? {
            "used" | "draining" if works => Host::Works,
            "used" | "draining" | "joining" => Host::Waits,
            "lost" => Host::Lost,
            "drained" => Host::Out,
            _ => Host::Idle,
        };
        Some((host["name"].as_str()?.to_owned(), is))
    };
    let hosts = told["hosts"].as_array()?.iter().filter_map(host).collect();
    let ranks = usize::try_from(number(&told["ranks"])?).ok()?;
    Some(Sample { at_s, works, ranks, step, kept: number(&told["checkpoint_step"]), hosts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_understood() {
        let told = |told_s: f64| {
            let text = format!(
                r#"{{"state":"running","ranks":2,"step":7,"told_s":{told_s},"checkpoint_step":5,
                    "hosts":[{{"name":"a","state":"used"}},{{"name":"b","state":"lost"}}]}}"#
            );
            sample(text.as_bytes(), 1.0).unwrap()
        };
        let hosts = |is| vec![("a".to_owned(), is), ("b".to_owned(), Host::Lost)];
        assert_eq!(told(0.1).hosts, hosts(Host::Works));
        assert_eq!((told(3.0).hosts, told(3.0).works), (hosts(Host::Waits), false));
        assert_eq!((told(0.1).step, told(0.1).kept), (Some(7), Some(5)));
        assert_eq!(sample(b"{}", 1.0), None);
    }
}
