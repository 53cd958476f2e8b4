//! Races the pool against its peers: all in one process, taking turns, compared round by round.
//!
//! ```text
//! cargo run --release -p parpool-peers -- [map|skew|stream|submit|lifecycle|watch|memory|all]...
//!     [--rounds N] [--workers N] [--check] [--svg DIR]
//! cargo run --release -p parpool-peers -- python [--workers N]
//! ```
//!
//! Each cell is the median of the rounds, with the lower and the upper quartile. With `--check` the
//! exit status is 1 if a target was missed by more than that spread: if the lower quartile is above it.

mod alloc;
mod lifecycle;
mod map;
mod memory;
mod peers;
mod python;
mod race;
mod skew;
mod stream;
mod submit;
mod svg;
mod watch;
mod work;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use peers::Peers;
use work::Clock;

const GROUPS: [&str; 7] = ["map", "skew", "stream", "submit", "lifecycle", "watch", "memory"];

/// What all races share.
struct Bench {
    rounds: usize,
    clock: Clock,
    peers: Peers,
}

struct Arguments {
    groups: Vec<&'static str>,
    rounds: usize,
    workers: usize,
    check: bool,
    svg: Option<PathBuf>,
    /// Only our side of the comparison with Python's pools.
    python: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Arguments {
            groups: Vec::new(),
            rounds: 11,
            workers: cores(),
            check: false,
            svg: None,
            python: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--rounds" => parsed.rounds = number(&value()?)?,
                "--workers" => parsed.workers = number(&value()?)?,
                "--check" => parsed.check = true,
                "--svg" => parsed.svg = Some(value()?.into()),
                "python" => parsed.python = true,
                "all" => parsed.groups.extend(GROUPS),
                name => match GROUPS.iter().find(|group| **group == name) {
                    Some(group) => parsed.groups.push(group),
                    None => return Err(format!("{name} is none of {}, all", GROUPS.join(", "))),
                },
            }
        }
        if parsed.groups.is_empty() {
            parsed.groups.extend(GROUPS);
        }
        Ok(parsed)
    }
}

fn number(word: &str) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| *number > 0);
    number.ok_or(format!("{word} is no number above 0"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let Arguments { groups, rounds, workers, check, svg, python } = arguments;
    let bench = Bench { rounds, clock: Clock::calibrate(), peers: Peers::new(workers) };
    if python {
        python::print(&bench);
        return ExitCode::SUCCESS;
    }
    println!("{}", machine(workers, rounds));
    let mut missed = Vec::new();
    for group in GROUPS.into_iter().filter(|group| groups.contains(group)) {
        let tables = match group {
            "map" => map::tables(&bench),
            "skew" => vec![skew::table(&bench)],
            "stream" => stream::tables(&bench),
            "submit" => submit::tables(&bench),
            "lifecycle" => vec![lifecycle::table(&bench)],
            "watch" => vec![watch::table(&bench)],
            _ => {
                memory::print(&bench.peers, &mut missed);
                continue;
            }
        };
        tables.iter().for_each(|table| table.print(&mut missed));
        if let Some(directory) = &svg {
            svg::write(directory, group, &tables).expect("a directory to write to");
        }
    }
    if missed.is_empty() {
        println!("\nNo target was missed.");
        return ExitCode::SUCCESS;
    }
    println!("\nMissed by more than the spread:\n");
    missed.iter().for_each(|line| println!("- {line}"));
    ExitCode::from(u8::from(check))
}

/// The cores, the compiler, and the contenders.
fn machine(workers: usize, rounds: usize) -> String {
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc =
        rustc.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).into());
    let names =
        ["parpool", "rayon", "pariter", "orx-parallel", "paralight", "rusty_pool", "threadpool"];
    let contenders = names.map(|name| format!("{name} {}", version(name))).join(", ");
    let (cores, rustc) = (cores(), rustc.trim());
    format!("{cores} cores, {workers} workers, {rounds} rounds; {rustc}; {contenders}")
}

/// The version that this was built with.
fn version(name: &str) -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let entry = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
    entry.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("?")
}
