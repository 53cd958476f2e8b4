//! Pools of ranks: each test starts `mpirun` on this very program, with a time limit.
//!
//! ```text
//! cargo test -p parpool-mpi --test ranks               all
//! cargo test -p parpool-mpi --test ranks -- map kill   those whose names contain one of these
//! ```
//!
//! Without a launcher of the MPI that it was built with it says so and skips. `PARPOOL_MPIRUN` names
//! another launcher, with arguments if need be; `PARPOOL_MPI_FT=1` says that it tolerates faults;
//! `PARPOOL_MPI_ROUNDS=20` runs each test twenty times.

mod cases;

use std::fs::File;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What the end of a job must be like.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// Each rank ends with 0.
    Well,
    /// The job ends with a status that is not 0, and has printed this.
    Badly(&'static str),
    /// Well with a launcher that tolerates faults, else badly.
    Fault,
    /// Killed ranks make the launcher end with a status of its own: only that it ends is known.
    Anyhow,
}

/// A test: what each rank runs, and how it is started.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
    /// On how many ranks; 0 is without a launcher.
    pub(crate) ranks: &'static [usize],
    /// With how many workers on each rank.
    pub(crate) workers: &'static [usize],
    pub(crate) end: End,
}

/// No test takes longer that does not hang, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if let Ok(name) = std::env::var("PARPOOL_MPI_CASE") {
        let case = cases::CASES.iter().find(|case| case.name == name);
        (case.expect("there is such a test").run)();
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let Some(launcher) = launcher() else {
        println!("\nSKIPPED: there is no mpirun of {}", library());
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored", cases::CASES.len());
        return ExitCode::SUCCESS;
    };
    println!("\n{} started by {}", library(), launcher.join(" "));
    let rounds = std::env::var("PARPOOL_MPI_ROUNDS").map_or(1, |n| n.parse().expect("a number"));
    let (mut passed, mut failed) = (0, 0);
    for round in 0..rounds {
        for case in cases::CASES {
            if !words.is_empty() && !words.iter().any(|word| case.name.contains(word.as_str())) {
                continue;
            }
            for ranks in case.ranks {
                for workers in case.workers {
                    let begun = Instant::now();
                    let outcome = run(case, &launcher, *ranks, *workers);
                    let ok = if outcome.is_ok() { "ok" } else { "FAILED" };
                    let of = if rounds > 1 { format!(" round {round}") } else { String::new() };
                    let (name, time) = (case.name, begun.elapsed());
                    println!("test {name}, {ranks} ranks of {workers}{of} ... {ok} ({time:.1?})");
                    match outcome {
                        Ok(()) => passed += 1,
                        Err(why) => {
                            failed += 1;
                            println!("---- {name}\n{why}\n----");
                        }
                    }
                }
            }
        }
    }
    let ok = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {ok}. {passed} passed; {failed} failed; 0 ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The MPI this program was built with.
fn library() -> String {
    let version = mpi::environment::library_version().expect("a version is a text");
    let words: Vec<&str> = version.split_whitespace().take(3).collect();
    words.join(" ").trim_end_matches(',').to_owned()
}

/// The launcher of that MPI, if it is installed.
fn launcher() -> Option<Vec<String>> {
    if let Ok(set) = std::env::var("PARPOOL_MPIRUN") {
        return Some(set.split_whitespace().map(str::to_owned).collect());
    }
    let open = library().contains("Open MPI");
    let candidates: &[&str] = match open {
        true => &["mpirun.openmpi", "mpirun"],
        false => &["mpirun.mpich", "mpiexec.hydra", "mpirun"],
    };
    let is_of_it = |name: &&&str| {
        let version = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|version| {
            let text = String::from_utf8_lossy(&version.stdout).into_owned();
            let named = text.contains("Open MPI") || text.contains("PRRTE");
            version.status.success() && named == open
        })
    };
    let name = candidates.iter().find(is_of_it)?;
    // More ranks than cores, and bound to none: what a test machine is like.
    let options: &[&str] = if open { &["--oversubscribe", "--bind-to", "none"] } else { &[] };
    let mut launcher = vec![(*name).to_owned()];
    launcher.extend(options.iter().map(|option| (*option).to_owned()));
    Some(launcher)
}

/// Runs one test on so many ranks; an error is what it printed.
fn run(case: &Case, launcher: &[String], ranks: usize, workers: usize) -> Result<(), String> {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = match ranks {
        0 => Command::new(&program),
        _ => {
            let mut command = Command::new(&launcher[0]);
            command.args(&launcher[1..]).arg("-n").arg(ranks.to_string()).arg(&program);
            command
        }
    };
    let directory = std::env::temp_dir();
    let path = directory.join(format!("parpool-mpi-{}-{}", std::process::id(), case.name));
    let output = File::create(&path).expect("a temporary file");
    command
        .env("PARPOOL_MPI_CASE", case.name)
        .env("PARPOOL_MPI_WORKERS", workers.to_string())
        .env("RUST_BACKTRACE", "0")
        // Open MPI does not like root; containers are root.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("PRTE_ALLOW_RUN_AS_ROOT", "1")
        .env("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a file"))
        .stderr(output);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child can be asked") {
            Some(status) => break Some(status),
            None if begun.elapsed() > LIMIT => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.is_none() {
        // With a signal that the launcher can pass on to its ranks.
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        std::thread::sleep(Duration::from_secs(3));
        let _ = child.kill();
        let _ = child.wait();
    }
    let mut text = String::new();
    let read = File::open(&path).and_then(|mut file| file.read_to_string(&mut text));
    let _ = std::fs::remove_file(&path);
    read.map_err(|error| error.to_string())?;
    let Some(status) = status else {
        return Err(format!("{text}\nstill running after {LIMIT:?}"));
    };
    let well = match case.end {
        End::Well => status.success(),
        End::Badly(words) => !status.success() && text.contains(words),
        End::Fault if std::env::var("PARPOOL_MPI_FT").is_ok() => {
            status.success() && text.contains("completed")
        }
        End::Fault => !status.success() && !text.contains("completed"),
        End::Anyhow => true,
    };
    if well { Ok(()) } else { Err(format!("{text}\n{status}")) }
}
