//! `spmd job`, and what is in `scripts/` for batch systems, containers and modules: what it says,
//! and what it does with stand-ins for the programs that it calls.
#![cfg(unix)]

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

mod support;

use support::{
    Ending, spmd,
    stand_ins::{Ended, StandIns, root},
    yaml,
};

fn run(arguments: &[&str]) -> Ending {
    support::run(spmd().args(arguments), Duration::from_secs(60))
}

/// What `spmd job` writes.
#[track_caller]
fn job(arguments: &[&str]) -> String {
    run(&[&["job"], arguments].concat()).success().stdout
}

/// A file with what `spmd job` writes.
#[track_caller]
fn file(arguments: &[&str]) -> tempfile::TempPath {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let out = ["--out", path.to_str().unwrap()];
    let (options, program) = match arguments.iter().position(|word| *word == "--") {
        Some(at) => arguments.split_at(at),
        None => (arguments, [].as_slice()),
    };
    run(&[&["job"], options, &out, program].concat()).success();
    path
}

#[track_caller]
fn has_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|it| it.trim() == *line), "no `{line}` in {text}");
    }
}

/// Arguments that a shell, YAML or Kubernetes would read in their own way.
const NASTY: [&str; 9] =
    ["two words", "it's", "\"q\"", "a\nb", "$HOME", "$(date)", "`x` $$(y)", "*~#!", "\\é\t"];

const EVERY_OPTION_OF_SLURM: [&str; 23] = [
    "slurm",
    "-N",
    "8",
    "--ranks-per-node",
    "3",
    "--threads",
    "5",
    "-t",
    "1-12",
    "-J",
    "heat",
    "--partition",
    "debug",
    "-A",
    "physics",
    "--module",
    "openmpi/4.1",
    "--module",
    "hdf5",
    "--launcher",
    "mpirun",
    "--stop-before",
    "5m",
];

const EVERY_OPTION_OF_FLUX: [&str; 19] = [
    "flux",
    "--nodes",
    "8",
    "--ranks-per-node",
    "3",
    "--threads",
    "5",
    "--time",
    "2h",
    "--name",
    "heat",
    "--queue",
    "debug",
    "--bank",
    "physics",
    "--module",
    "openmpi",
    "--stop-before",
    "5m",
];

#[test]
fn the_ready_scripts_are_what_job_writes() {
    let example = ["--", "heat2d", "--size", "4096,4096", "--steps", "500"];
    for (name, arguments) in [
        ("job.sbatch", ["slurm"].as_slice()),
        ("job.flux", &["flux"]),
        ("mpijob.yaml", &[["kubernetes"].as_slice(), &example].concat()),
    ] {
        let path = root().join("scripts").join(name);
        let ready = fs::read_to_string(&path).unwrap();
        let words = arguments.join(" ");
        assert_eq!(ready, job(arguments), "spmd job {words} > scripts/{name}");
        let executable = fs::metadata(&path).unwrap().permissions().mode() & 0o111 != 0;
        assert_eq!(executable, name != "mpijob.yaml", "{name}");
    }
}

#[test]
fn shellcheck_has_nothing_to_say() {
    if Command::new("shellcheck").arg("--version").output().is_err() {
        println!("skipped: shellcheck is not there (scripts/setup.sh --tests)");
        return;
    }
    let program = [["--"].as_slice(), &["./program", "{}"], &NASTY].concat();
    let array = [["--array", "1-3,x y"].as_slice(), &program].concat();
    for arguments in [
        ["slurm"].as_slice(),
        &["flux"],
        &[["slurm"].as_slice(), &program].concat(),
        &[["flux"].as_slice(), &program].concat(),
        &[EVERY_OPTION_OF_SLURM.as_slice(), &array].concat(),
        &[EVERY_OPTION_OF_FLUX.as_slice(), &array].concat(),
    ] {
        let script = file(arguments);
        let said = Command::new("shellcheck").arg(&script).output().unwrap();
        assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stdout));
    }
    for mpi in ["openmpi", "mpich", "intel"] {
        let launcher = tempfile::NamedTempFile::new().unwrap();
        let manifest = manifest(&["--mpi", mpi, "--", "x"]);
        fs::write(launcher.path(), of_kubernetes(&container(&manifest, "Launcher")["command"][2]))
            .unwrap();
        let said =
            Command::new("shellcheck").args(["--shell", "bash"]).arg(launcher.path()).output();
        let said = said.unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    }
}

#[test]
fn every_option_is_in_the_script_for_slurm() {
    has_lines(
        &job(&EVERY_OPTION_OF_SLURM),
        &[
            "#SBATCH --job-name=heat",
            "#SBATCH --nodes=8",
            "#SBATCH --ntasks-per-node=3",
            "#SBATCH --cpus-per-task=5",
            "#SBATCH --time=1-12:00:00",
            "#SBATCH --partition=debug",
            "#SBATCH --account=physics",
            "#SBATCH --signal=B:USR1@300",
            "#SBATCH --requeue",
            "#SBATCH --hint=nomultithread",
            "#SBATCH --output=%x-%j.log",
            "for module in ${MODULES:-openmpi/4.1 hdf5}; do module load \"$module\"; done",
            "launcher=${LAUNCHER:-mpirun}",
        ],
    );
    let without = job(&["slurm"]);
    for word in ["--partition", "--account", "--array", "#SBATCH --signal", "--no-kill"] {
        assert!(!without.lines().any(|line| line.starts_with("#SBATCH") && line.contains(word)));
    }
    has_lines(
        &job(&["slurm", "--array", "1,2,4", "--", "x", "{}"]),
        &["#SBATCH --array=0-2", "#SBATCH --output=%x-%A_%a.log"],
    );
}

#[test]
fn a_script_for_slurm_that_gets_over_faults_outlives_nodes() {
    let script = file(&["slurm", "--restarts", "3", "--launcher", "mpirun", "--", "./heat2d"]);
    let text = fs::read_to_string(&script).unwrap();
    has_lines(&text, &["#SBATCH --no-kill", "#SBATCH --requeue"]);
    let stand_ins = StandIns::new().add("spmd", TELL).add("mpirun", "exit 9");
    let ended = stand_ins.run(&script, &["--steps", "10"], &ALLOCATION, true);
    let words = ["run", "--restarts", "3", "--launcher", "mpirun", "--threads", "3", "./heat2d"];
    assert!(ended.out.ends_with(&told(&[&words[..], &["--steps", "10"]].concat())), "{ended:?}");
}

const ALLOCATION: [(&str, &str); 4] = [
    ("SLURM_JOB_ID", "17"),
    ("SLURM_NTASKS", "4"),
    ("SLURM_CPUS_PER_TASK", "3"),
    ("MPI_TYPE", "pmix"),
];

/// Prints each argument on a line of its own, as the shell would have it.
const TELL: &str = "printf '<%s>\\n' \"$@\"";

/// A script for SLURM under stand-ins.
fn under_slurm(script: &Path, srun: &str, arguments: &[&str], more: &[(&str, &str)]) -> Ended {
    let stand_ins = StandIns::new().add("srun", srun).add("scontrol", "echo \"scontrol $*\"");
    stand_ins.run(script, arguments, &[ALLOCATION.as_slice(), more].concat(), true)
}

fn told(words: &[&str]) -> String {
    words.iter().flat_map(|word| ["<", word, ">\n"]).collect()
}

#[test]
fn a_script_for_slurm_hands_its_program_every_argument_as_it_was() {
    let words = [["./my program"].as_slice(), &NASTY].concat();
    let script = file(&[["slurm", "--"].as_slice(), &words].concat());
    assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o111, 0o111);
    let ended = under_slurm(&script, TELL, &["more", "of these"], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let expected = told(&[words.as_slice(), &["more", "of these"]].concat());
    assert!(ended.out.ends_with(&format!("<--cpu-bind=cores>\n{expected}")), "{ended:?}");
}

#[test]
fn a_task_of_an_array_has_its_size() {
    let script = file(&["slurm", "--array", "10,20,a b", "--", "./x", "--size={},{}", "{}"]);
    for (task, size) in [("0", "10"), ("1", "20"), ("2", "a b")] {
        let ended = under_slurm(&script, TELL, &[], &[("SLURM_ARRAY_TASK_ID", task)]);
        let expected = told(&["./x", &format!("--size={size},{size}"), size]);
        assert!(ended.out.ends_with(&expected), "{ended:?}");
    }
    for more in [[].as_slice(), &[("SLURM_ARRAY_TASK_ID", "3")]] {
        let ended = under_slurm(&script, TELL, &[], more);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains("sbatch --array=0-2 FILE"), "{ended:?}");
    }
}

#[test]
fn a_stopped_job_goes_back_into_the_queue_of_slurm() {
    let script = file(&["slurm", "--stop-before", "1m", "--", "./x"]);
    let srun = "trap 'echo told; exit 5' USR1\nkill -USR1 $PPID\nwhile :; do sleep 0.05; done";
    let ended = under_slurm(&script, srun, &[], &[]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.out.contains("told") && ended.out.contains("scontrol requeue 17"), "{ended:?}");
}

#[test]
fn modules_are_loaded_before_the_program_starts() {
    // `module` is a function of the shell, which batch scripts inherit.
    let function = [("BASH_FUNC_module%%", "() { echo \"module $*\"; }")];
    for (script, call) in [
        (file(&["slurm", "--module", "openmpi", "--module", "hdf5", "--", "./x"]), "srun"),
        (file(&["flux", "--module", "openmpi", "--module", "hdf5", "--", "./x"]), "flux"),
    ] {
        let stand_ins = StandIns::new().add("srun", TELL).add("flux", FLUX);
        let ended = stand_ins.run(&script, &[], &[ALLOCATION.as_slice(), &function].concat(), true);
        let at = |what| ended.out.find(what).unwrap_or_else(|| panic!("no {what}: {ended:?}"));
        let order = [at("module load openmpi\n"), at("module load hdf5\n"), at("<./x>")];
        assert!(order.is_sorted(), "{call}: {ended:?}");
    }
}

#[test]
fn every_option_is_in_the_script_for_flux() {
    let script = job(&EVERY_OPTION_OF_FLUX);
    has_lines(
        &script,
        &[
            "#flux: --job-name=heat",
            "#flux: --nodes=8",
            "#flux: --nslots=24",
            "#flux: --cores-per-slot=5",
            "#flux: --time-limit=7200s",
            "#flux: --queue=debug",
            "#flux: --bank=physics",
            "#flux: --output={{name}}-{{id}}.log",
            "for module in ${MODULES:-openmpi}; do module load \"$module\"; done",
            "ahead=${STOP_BEFORE:-300}",
        ],
    );
    // Flux reads directives up to the first line that does not begin as they do.
    for script in [script, job(&["flux", "--array", "1-2", "--", "x", "{}"])] {
        let mut lines = script.lines().skip(1);
        let directives = lines.by_ref().take_while(|line| line.starts_with('#'));
        assert!(directives.filter(|line| line.starts_with("#flux: --")).count() >= 6, "{script}");
        assert!(!lines.any(|line| line.to_lowercase().contains("flux:")), "{script}");
    }
}

/// Flux as a batch script sees it, with one job, whose time, exit code and last words are given.
const FLUX: &str = r#"
case "$*" in
    'getattr size') echo 3 ;;
    'getattr jobid') echo f17 ;;
    'getattr hostlist') echo 'node[1-3]' ;;
    'job timeleft') echo "${LEFT:-4294967295}" ;;
    'job last') echo f1 ;;
    'job attach f1') echo "$WORDS"; exit "$CODE" ;;
    '--parent job info --original f17 jobspec') echo 'the jobspec' ;;
    '--parent job submit') echo "submitted $(cat)" ;;
    run*) printf '<%s>\n' "$@"; echo "walltime $SPMD_WALLTIME threads $SPMD_THREADS $RAYON_NUM_THREADS $OMP_NUM_THREADS"; exit "${CODE:-0}" ;;
    *) echo "flux $*: unknown"; exit 1 ;;
esac
"#;

fn under_flux(script: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    StandIns::new().add("flux", FLUX).run(script, arguments, variables, true)
}

#[test]
fn a_script_for_flux_starts_its_program_on_all_hosts() {
    let words = [["./my program"].as_slice(), &NASTY].concat();
    let arguments =
        ["flux", "--ranks-per-node", "4", "--threads", "2", "--stop-before", "1m", "--"];
    let script = file(&[arguments.as_slice(), &words].concat());
    let ended = under_flux(&script, &["more"], &[("LEFT", "600")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let options =
        ["run", "--nodes=3", "--ntasks=12", "--cores-per-task=2", "--setopt=cpu-affinity=per-task"];
    let expected = told(&[options.as_slice(), &words, &["more"]].concat());
    assert!(ended.out.contains(&expected), "{ended:?}");
    assert!(ended.out.ends_with("walltime 540 threads 2 2 2\n"), "{ended:?}");
    let other =
        [("RANKS_PER_NODE", "2"), ("SPMD_THREADS", "4"), ("MPI_TYPE", "pmix"), ("LEFT", "50")];
    let ended = under_flux(&script, &[], &other);
    for part in
        ["<--ntasks=6>", "<--cores-per-task=4>", "<--setopt=pmi=pmix>", "walltime  threads 4 4 4"]
    {
        assert!(ended.out.contains(part), "{part}: {ended:?}");
    }
}

#[test]
fn a_stopped_job_is_submitted_to_flux_again() {
    let script = file(&["flux", "--", "./x"]);
    let stopped = "stopped (its time is nearly up), to be continued from kept/000001";
    let words_of_its_own = format!("it was {stopped}");
    for (code, words, more, again, ends) in [
        ("5", "", ("A", ""), true, 5),
        ("143", stopped, ("A", ""), true, 5),
        ("143", words_of_its_own.as_str(), ("A", ""), false, 143),
        ("1", stopped, ("A", ""), false, 1),
        ("5", "", ("REQUEUE", "no"), false, 5),
    ] {
        let ended = under_flux(&script, &[], &[("CODE", code), ("WORDS", words), more]);
        assert_eq!(ended.code, Some(ends), "{ended:?}");
        assert_eq!(ended.out.contains("submitted the jobspec"), again, "{ended:?}");
    }
}

#[test]
fn a_script_for_flux_takes_its_program_or_the_number_of_a_task() {
    let any = file(&["flux"]);
    assert!(under_flux(&any, &["./x", "a b"], &[]).out.contains(&told(&["./x", "a b"])));
    let ended = under_flux(&any, &[], &[]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("help: flux batch"), "{ended:?}");

    let sizes = file(&["flux", "--array", "7,8", "--", "./x", "{}"]);
    assert!(under_flux(&sizes, &["1", "more"], &[]).out.contains(&told(&["./x", "8", "more"])));
    for arguments in [[].as_slice(), &["2"]] {
        let ended = under_flux(&sizes, arguments, &[]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains("a number from 0 to 1"), "{ended:?}");
    }
}

/// The one document of a job for Kubernetes.
#[track_caller]
fn manifest(arguments: &[&str]) -> Value {
    let text = job(&[["kubernetes"].as_slice(), arguments].concat());
    let [document] = yaml::documents(&text).try_into().expect("one document");
    document
}

fn container<'a>(manifest: &'a Value, replica: &str) -> &'a Value {
    let spec = &manifest["spec"]["mpiReplicaSpecs"][replica]["template"]["spec"];
    assert_eq!(spec["containers"].as_array().map(Vec::len), Some(1), "{spec}");
    &spec["containers"][0]
}

/// What Kubernetes makes of an argument: one dollar of two, and of `$(NAME)` a variable.
fn of_kubernetes(argument: &Value) -> String {
    let argument = argument.as_str().unwrap().replace("$$", "\0");
    assert!(!argument.contains("$("), "a variable is named: {argument}");
    argument.replace('\0', "$")
}

/// Every field of the manifest is one that the operator knows, and has its type.
#[track_caller]
fn fits(manifest: &Value) {
    let only = |value: &Value, known: &[&str]| {
        let names = value.as_object().unwrap_or_else(|| panic!("{value} is no mapping")).keys();
        names.for_each(|name| assert!(known.contains(&name.as_str()), "{name} in {value}"));
    };
    only(manifest, &["apiVersion", "kind", "metadata", "spec"]);
    assert_eq!(manifest["apiVersion"], "kubeflow.org/v2beta1");
    assert_eq!(manifest["kind"], "MPIJob");
    only(&manifest["metadata"], &["name", "labels"]);
    let spec = &manifest["spec"];
    only(
        spec,
        &[
            "slotsPerWorker",
            "mpiImplementation",
            "launcherCreationPolicy",
            "sshAuthMountPath",
            "runPolicy",
            "mpiReplicaSpecs",
        ],
    );
    assert!(spec["slotsPerWorker"].as_u64() >= Some(1), "{spec}");
    assert!(["OpenMPI", "MPICH", "Intel"].map(Value::from).contains(&spec["mpiImplementation"]));
    assert_eq!(spec["launcherCreationPolicy"], "WaitForWorkersReady");
    let policy = &spec["runPolicy"];
    only(policy, &["cleanPodPolicy", "activeDeadlineSeconds", "backoffLimit"]);
    assert_eq!(policy["cleanPodPolicy"], "Running");
    assert!(
        policy["activeDeadlineSeconds"].is_u64() && policy["backoffLimit"].is_u64(),
        "{policy}"
    );
    only(&spec["mpiReplicaSpecs"], &["Launcher", "Worker"]);
    for (name, replica) in spec["mpiReplicaSpecs"].as_object().unwrap() {
        only(replica, &["replicas", "restartPolicy", "template"]);
        assert!(name == "Worker" || replica["replicas"] == 1, "{replica}");
        assert!(["Never", "OnFailure"].map(Value::from).contains(&replica["restartPolicy"]));
        only(&replica["template"], &["spec"]);
        let pod = &replica["template"]["spec"];
        only(pod, &["containers", "volumes", "terminationGracePeriodSeconds"]);
        let container = container(manifest, name);
        only(
            container,
            &[
                "name",
                "image",
                "securityContext",
                "workingDir",
                "command",
                "args",
                "env",
                "resources",
                "readinessProbe",
                "volumeMounts",
            ],
        );
        let texts = |list: &Value| list.as_array().unwrap().iter().all(Value::is_string);
        assert!(texts(&container["command"]), "{container}");
        assert!(container.get("args").is_none_or(texts), "{container}");
        for variable in container.get("env").and_then(Value::as_array).into_iter().flatten() {
            assert!(variable["name"].is_string() && variable["value"].is_string(), "{variable}");
        }
    }
}

#[test]
fn a_job_for_kubernetes_has_what_the_operator_wants() {
    let manifest = manifest(&["--", "heat2d"]);
    fits(&manifest);
    assert_eq!(manifest["metadata"], json!({"name": "spmd"}));
    let (launcher, worker) = (container(&manifest, "Launcher"), container(&manifest, "Worker"));
    assert_eq!(launcher["args"], json!(["heat2d"]));
    assert_eq!(worker["command"][0], "/usr/sbin/sshd");
    assert_eq!(worker["resources"]["limits"], json!({"cpu": 4}));
    assert_eq!(manifest["spec"]["runPolicy"]["backoffLimit"], 0);
}

#[test]
fn every_option_is_in_the_job_for_kubernetes() {
    let manifest = manifest(&[
        "--nodes",
        "3",
        "--ranks-per-node",
        "4",
        "--threads",
        "5",
        "--time",
        "2h",
        "--name",
        "heat",
        "--queue",
        "batch",
        "--stop-before",
        "1m",
        "--image",
        "registry/heat:1",
        "--mpi",
        "mpich",
        "--memory",
        "4Gi",
        "--claim",
        "shared-data",
        "--",
        "heat2d",
    ]);
    fits(&manifest);
    let spec = &manifest["spec"];
    let (launcher, worker) = (container(&manifest, "Launcher"), container(&manifest, "Worker"));
    let labels = json!({"kueue.x-k8s.io/queue-name": "batch"});
    assert_eq!(manifest["metadata"], json!({"name": "heat", "labels": labels}));
    assert_eq!(spec["slotsPerWorker"], 4);
    assert_eq!(spec["mpiReplicaSpecs"]["Worker"]["replicas"], 3);
    assert_eq!(spec["mpiImplementation"], "MPICH");
    assert_eq!(spec["runPolicy"]["activeDeadlineSeconds"], 7200);
    assert_eq!(spec["runPolicy"]["backoffLimit"], 6);
    assert_eq!(spec["mpiReplicaSpecs"]["Launcher"]["restartPolicy"], "OnFailure");
    let pod = &spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "shared-data");
    for container in [launcher, worker] {
        assert_eq!(container["image"], "registry/heat:1");
        assert_eq!(container["workingDir"], "/data");
        assert_eq!(container["volumeMounts"], json!([{"name": "shared", "mountPath": "/data"}]));
    }
    assert_eq!(worker["resources"]["limits"], json!({"cpu": 20, "memory": "4Gi"}));
    assert!(of_kubernetes(&launcher["command"][2]).contains("\nmpirun -n 12 \"$@\" &\n"));
    assert!(
        launcher["env"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "SPMD_THREADS", "value": "5"}))
    );
}

#[test]
fn an_array_is_a_job_of_kubernetes_for_each_size() {
    let text = job(&["kubernetes", "--array", "1,2,true", "--", "x", "--size={}"]);
    let documents = yaml::documents(&text);
    let sizes = ["--size=1", "--size=2", "--size=true"];
    assert_eq!(documents.len(), sizes.len());
    for (number, (document, size)) in documents.iter().zip(sizes).enumerate() {
        fits(document);
        assert_eq!(document["metadata"]["name"], format!("spmd-{number}"));
        assert_eq!(container(document, "Launcher")["args"], json!(["x", size]));
    }
}

/// The launcher's command line, run: the program gets its arguments as they were, the signal that
/// ends the pod tells it to stop, and its exit code is the pod's.
#[test]
fn a_launcher_in_kubernetes_hands_on_arguments_signals_and_exit_codes() {
    let words = [["my program"].as_slice(), &NASTY].concat();
    let manifest = manifest(&[["--"].as_slice(), &words].concat());
    let launcher = container(&manifest, "Launcher");
    let list = |name: &str| launcher[name].as_array().unwrap().iter().map(of_kubernetes).collect();
    let [command, arguments]: [Vec<String>; 2] = [list("command"), list("args")];
    assert_eq!(arguments, words);
    let start = |mpirun: &str| {
        let stand_ins = StandIns::new().add("mpirun", mpirun);
        let path = format!("{}:/usr/bin:/bin", stand_ins.0.path().display());
        let mut command_line = support::program(&command[0]);
        command_line.args(&command[1..]).args(&arguments).env("PATH", path);
        support::run(&mut command_line, Duration::from_secs(60))
    };
    let ended = start(TELL);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stdout.starts_with("<-n>\n<4>\n<--hostfile>\n</etc/mpi/hostfile>\n"),
        "{ended:?}"
    );
    assert!(ended.stdout.ends_with(&told(&words)), "{ended:?}");
    assert_eq!(start("exit 3").code, Some(3));
    let stops = "trap 'echo told; exit 5' USR1\nkill -TERM $PPID\nwhile :; do sleep 0.05; done";
    let ended = start(stops);
    assert!(ended.code == Some(5) && ended.stdout == "told\n", "{ended:?}");
}

/// The whole of it, where the operator's own schema and a validator are at hand.
#[test]
fn jobs_for_kubernetes_fit_the_operators_schema() {
    let Ok(schema) = env::var("SPMD_MPIJOB_CRD") else {
        println!(
            "skipped: SPMD_MPIJOB_CRD names no schema (kubeflow.org_mpijobs.yaml of the MPI operator)"
        );
        return;
    };
    let program = "
import sys, yaml, jsonschema
versions = yaml.safe_load(open(sys.argv[1]))['spec']['versions']
schema = next(it['schema']['openAPIV3Schema'] for it in versions if it['name'] == 'v2beta1')
def strict(part):
    if isinstance(part, dict):
        if part.get('x-kubernetes-int-or-string'):
            part.clear()
            part['type'] = ['integer', 'string']
        elif part.get('type') == 'object' and 'properties' in part:
            part.setdefault('additionalProperties', False)
        for inner in part.values():
            strict(inner)
    elif isinstance(part, list):
        for inner in part:
            strict(inner)
strict(schema)
schema['properties']['metadata'] = {'type': 'object'}
for document in yaml.safe_load_all(sys.stdin):
    jsonschema.Draft7Validator(schema).validate(document)
    print('valid', document['spec']['mpiReplicaSpecs']['Launcher']['template']['spec']['containers'][0]['args'])
";
    let nasty = [["--", "x{}"].as_slice(), &NASTY].concat();
    let all = [
        "kubernetes",
        "--queue",
        "q",
        "--stop-before",
        "1m",
        "--mpi",
        "intel",
        "--memory",
        "1Gi",
        "--claim",
        "c",
        "--array",
        "1,2",
    ];
    for arguments in
        [[["kubernetes"].as_slice(), &nasty].concat(), [all.as_slice(), &nasty].concat()]
    {
        let manifest = file(&arguments);
        let said = Command::new("python3")
            .args(["-c", program, &schema])
            .stdin(fs::File::open(&manifest).unwrap())
            .output()
            .unwrap();
        let ended = Ended::from(said);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.starts_with("valid ['x"), "{ended:?}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    for (arguments, why) in [
        (["slurm", "--array", "1,2", "--", "x"].as_slice(), "no {} for them"),
        (&["slurm", "--array", "1,,2", "--", "x", "{}"], "a size is empty"),
        (&["slurm", "--array", "1"], "no {} for them"),
        (&["slurm", "--time", "soon"], "a time is 90m"),
        (&["slurm", "--time", "0"], "a job needs time"),
        (&["slurm", "--time", "5m", "--stop-before", "5m"], "a longer --time"),
        (&["flux", "--stop-before", "1h"], "a longer --time"),
        (&["slurm", "--time", "2d", "--stop-before", "1d"], "at most 65535 s"),
        (&["slurm", "--name", "a b"], "a job's name"),
        (&["slurm", "--queue", "a\n#SBATCH --uid=0"], "a name consists of"),
        (&["slurm", "--launcher", "rsh"], "possible values: srun, mpirun"),
        (&["slurm", "--nodes", "0"], "--nodes"),
        (&["kubernetes"], "no program given"),
        (&["kubernetes", "--name", "Heat", "--", "x"], "is no name of a host"),
        (&["kubernetes", "--name", &"a".repeat(55), "--", "x"], "a shorter --name"),
        (&["pbs"], "unrecognized subcommand"),
    ] {
        let ending = run(&[&["job"], arguments].concat()).code(2);
        assert!(
            ending.stderr.contains(why) && ending.stdout.is_empty(),
            "{arguments:?} {ending:#?}"
        );
    }
    let ending = run(&["job", "slurm", "--out", "/nowhere/job"]).code(1);
    assert!(ending.stderr.contains("cannot write /nowhere/job: No such file"), "{ending:#?}");
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man/man1");
    run(&["man", pages.to_str().unwrap()]).success();
    let page = |name: &str| {
        let path = pages.join(name).with_extension("1");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let help = run(&["--help"]).success().stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"job") && commands.contains(&"selftest"), "{commands:?}");
    for name in &commands {
        assert!(page(&format!("spmd-{name}")).contains(".TH"), "{name}");
    }
    assert!(page("spmd").contains("Exit codes") && page("spmd-info").contains("share\\-cpu"));
    assert!(page("spmd-job-slurm").contains("ranks\\-per\\-node"));
    let ending = run(&["man", "/dev/null/man1"]).code(1);
    assert!(ending.stderr.contains("cannot write to /dev/null/man1"), "{ending:#?}");
}

/// What the module sets, by a module command that only notes what it is told.
#[test]
fn the_module_leads_to_commands_pages_and_completions() {
    if Command::new("tclsh").arg("/dev/null").output().is_err() {
        println!("skipped: tclsh is not there (scripts/setup.sh --tests)");
        return;
    }
    let noted = |variable: Option<&str>| {
        let script = r#"
foreach name {module-whatis conflict prepend-path append-path} {
    proc $name args "puts \[list $name {*}\$args]"
}
source $argv
ModulesHelp
"#;
        let note = tempfile::NamedTempFile::new().unwrap();
        fs::write(note.path(), script).unwrap();
        let mut command = Command::new("tclsh");
        command.arg(note.path()).arg(root().join("scripts/modulefile")).env_remove("XDG_DATA_DIRS");
        if let Some(value) = variable {
            command.env("XDG_DATA_DIRS", value);
        }
        Ended::from(command.output().unwrap())
    };
    let ended = noted(None);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    has_lines(
        &ended.out,
        &[
            "conflict spmd",
            "prepend-path PATH /opt/spmd/bin",
            "append-path MANPATH {}",
            "prepend-path MANPATH /opt/spmd/share/man",
            "append-path XDG_DATA_DIRS /usr/local/share:/usr/share",
            "prepend-path XDG_DATA_DIRS /opt/spmd/share",
        ],
    );
    assert!(ended.err.contains("spmd"), "{ended:?}");
    assert!(!noted(Some("/a")).out.contains("/usr/local/share"));
}

#[test]
fn images_have_what_jobs_look_for_in_them() {
    let read = |name| fs::read_to_string(root().join("scripts").join(name)).unwrap();
    let (image, manifest, apptainer) = (read("Dockerfile"), read("mpijob.yaml"), read("spmd.def"));
    for (of_image, of_manifest) in [
        ("--uid 1000", "runAsUser: 1000"),
        ("'Port 2222'", "port: 2222"),
        (">/home/mpiuser/.sshd_config", "- /home/mpiuser/.sshd_config"),
        ("'HostKey /home/mpiuser/.ssh/id_rsa'", "sshAuthMountPath: /home/mpiuser/.ssh"),
        ("openssh-server", "- /usr/sbin/sshd"),
        ("--example heat2d", "- \"heat2d\""),
        ("USER 1000", "runAsUser: 1000"),
    ] {
        assert!(image.contains(of_image), "{of_image}");
        assert!(manifest.contains(of_manifest), "{of_manifest}");
    }
    // Both build the same, with options that cargo knows of this package.
    let install =
        "cargo install --locked --path . --features mpi --bins --example heat2d --root /opt/spmd";
    assert!(image.contains(install) && apptainer.contains(install));
    // The parts of the other one that are scripts.
    let mut scripts: Vec<String> = Vec::new();
    let mut inside = false;
    for line in apptainer.lines() {
        if !line.starts_with([' ', '\t']) && !line.is_empty() {
            inside = ["%post", "%runscript", "%test"].contains(&line);
            if inside {
                scripts.push(String::new());
            }
        } else if inside {
            scripts.last_mut().unwrap().extend([line, "\n"]);
        }
    }
    assert_eq!(scripts.len(), 4, "{apptainer}");
    for script in scripts {
        let status = Command::new("sh").args(["-n", "-c", &script]).status().unwrap();
        assert!(status.success() && !script.trim().is_empty(), "{script}");
    }
}
