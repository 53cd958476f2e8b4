//! How a pool begins: MPI is started, the ranks meet, each gets its workers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use mpi::environment::{self, Universe};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::{Threading, is_finalized, is_initialized};
use parpool::{Context, Error, Pool, current_worker};

use crate::core::Core;
use crate::error::MpiError;
use crate::link::{Event, Link};
use crate::raw;
use crate::wire::{self, Header, Kind};

/// MPI as this thread has started it. It lives as long as the thread, for it can be started only once in
/// the life of a process, and there may be another pool.
#[derive(Default)]
struct Started {
    universe: Option<Universe>,
    /// How many pools there are.
    pools: usize,
    /// A rank was lost.
    crippled: bool,
}

impl Drop for Started {
    fn drop(&mut self) {
        // With a pool alive the thread has not come to its end but was cut off, by `exit`. The others wait
        // for it, and MPI's end would wait for them.
        if self.pools > 0 && SimpleCommunicator::world().size() > 1 {
            abort();
        }
        // With a rank lost, MPI's end may wait for it: Open MPI's does, now and then (5.0).
        if self.crippled {
            std::mem::forget(self.universe.take());
        }
    }
}

thread_local! {
    static STARTED: RefCell<Started> = RefCell::default();
}

/// A pool is gone, and so is a rank of it if it is `crippled`.
pub(crate) fn release(crippled: bool) {
    // In the destructors of thread-locals MPI may have ended already.
    let _ended = STARTED.try_with(|started| {
        let mut started = started.borrow_mut();
        started.pools -= 1;
        started.crippled |= crippled;
    });
}

/// Ends the job, with all its ranks.
pub(crate) fn abort() -> ! {
    // What was printed last says why, and is on its way through the launcher, which kills (MPICH's) before
    // it reads.
    std::thread::sleep(Duration::from_millis(100));
    SimpleCommunicator::world().abort(ABORTED)
}

/// The exit status of a job that a panic has ended, as that of a Rust program.
const ABORTED: i32 = 101;

/// What a rank is asked to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) processes: Option<usize>,
    pub(crate) root_computes: bool,
}

/// Who a rank is: its node, the cores that it may use, how many, how many workers it was asked for.
type Hello = (String, String, usize, Option<usize>);

/// Starts MPI if need be and meets the other ranks.
pub(crate) fn launch(plan: &Plan) -> Result<(Core, Pool), MpiError> {
    if plan.processes == Some(0) {
        return Err(MpiError::Pool(Error::InvalidArgument("a rank needs at least 1 worker")));
    }
    if current_worker().is_some() {
        return Err(MpiError::Busy);
    }
    let link = STARTED.with(|started| {
        let started = &mut *started.borrow_mut();
        start(started)?;
        // A communicator of its own: messages of the program's do not get mixed up with the pool's.
        let comm = raw::Comm::new(SimpleCommunicator::world().duplicate())
            .map_err(|code| MpiError::Mpi(code.text()))?;
        started.pools += 1;
        Ok::<_, MpiError>(Link::new(comm))
    })?;
    let met = meet(link, plan).and_then(|(link, seats)| {
        let rank = link.rank;
        // Rank 0 may have told itself to compute nothing; it has a pool all the same.
        let workers = seats[rank].max(1);
        let context = if workers == 1 { Context::serial() } else { Context::threads() };
        let pool = Pool::builder().processes(workers).context(context).build()?;
        Ok((Core::new(link, seats, workers == 1), pool))
    });
    if let Err(error) = &met {
        release(matches!(error, MpiError::RankLost { .. }));
    }
    met
}

fn start(started: &mut Started) -> Result<(), MpiError> {
    let refuse = |why: &str| Err(MpiError::Mpi(why.to_owned()));
    if is_finalized() {
        return refuse("MPI was shut down before; it can be started only once in a process");
    }
    if !is_initialized() {
        match environment::initialize_with_threading(Threading::Funneled) {
            Some((universe, _)) => started.universe = Some(universe),
            None => return refuse("MPI was started by another thread at the same time"),
        }
    }
    if !raw::is_main_thread() {
        return refuse("MPI was started by another thread: pools of ranks are made where it was");
    }
    if environment::threading_support() < Threading::Funneled {
        return refuse(
            "MPI was started without support for threads: start it with MPI_THREAD_FUNNELED",
        );
    }
    let alone = SimpleCommunicator::world().size() == 1;
    match launched().filter(|_| alone) {
        Some((variable, size)) => refuse(&wrong_launcher(variable, size)),
        None => Ok(()),
    }
}

fn wrong_launcher(variable: &str, size: usize) -> String {
    let library = environment::library_version().unwrap_or_default();
    let library = library.lines().next().unwrap_or_default().trim().to_owned();
    format!(
        "started {size} times ({variable}={size}), but each process is alone: the launcher is not that of \
         the MPI this program was built with, which is: {library}. Use that one's mpirun; under Slurm, \
         `srun --mpi=pmix` for Open MPI, `srun --mpi=pmi2` for MPICH"
    )
}

/// What the launcher says of the number of ranks, if that is more than one.
fn launched() -> Option<(&'static str, usize)> {
    // Of Open MPI; of MPICH and what is made from it; of a step of Slurm (the variables of a job are there
    // also in its batch script, where a process is alone); of Flux.
    let variables = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "FLUX_JOB_SIZE"];
    let size = |name| std::env::var(name).ok()?.parse().ok();
    variables.into_iter().filter_map(|name| Some((name, size(name)?))).find(|(_, size)| *size > 1)
}

/// Tells rank 0 who this rank is and hears how many workers each computes with.
fn meet(mut link: Link, plan: &Plan) -> Result<(Link, Vec<usize>), MpiError> {
    let hello: Hello = (
        environment::processor_name().unwrap_or_default(),
        allowed_cores(),
        std::thread::available_parallelism().map_or(1, usize::from),
        plan.processes,
    );
    if link.rank > 0 {
        link.send(0, Rc::new(Header::of(Kind::Hello).message(&wire::plain(&hello))));
        let (_, message) = next(&mut link)?;
        let (_, body) = Header::read(&message)?;
        return Ok((link, wire::read_plain(body)?));
    }
    let mut hellos = vec![hello; link.size];
    for _ in 1..link.size {
        let (from, message) = next(&mut link)?;
        let (_, body) = Header::read(&message)?;
        hellos[from] = wire::read_plain(body)?;
    }
    let mut workers = share(&hellos);
    if !plan.root_computes && link.size > 1 {
        workers[0] = 0;
    }
    link.send_to_all(&Rc::new(Header::of(Kind::Welcome).message(&wire::plain(&workers))));
    link.flush();
    Ok((link, workers))
}

fn next(link: &mut Link) -> Result<(usize, Vec<u8>), MpiError> {
    match link.wait() {
        Event::Message(from, message) => Ok((from, message)),
        Event::Lost(rank, reason) => Err(MpiError::RankLost { rank, reason }),
    }
}

/// How many workers each rank computes with: as many as it was asked for, or its share of the cores that
/// it may use. Ranks of one node that are bound to the same cores share them.
fn share(hellos: &[Hello]) -> Vec<usize> {
    let mut ranks = HashMap::new();
    for (node, cores, ..) in hellos {
        *ranks.entry((node, cores)).or_insert(0) += 1;
    }
    let own = |(node, cores, count, _): &Hello| (count / ranks[&(node, cores)]).max(1);
    hellos.iter().map(|hello| hello.3.unwrap_or_else(|| own(hello))).collect()
}

/// The cores that this process is bound to, as a text to be compared; nothing where the system does not
/// tell.
fn allowed_cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cores.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_the_cores_that_they_are_bound_to() {
        let rank = |node: &str, cores: &str, count, asked| {
            (node.to_owned(), cores.to_owned(), count, asked)
        };
        // Not bound: two on one node, one on another.
        let unbound =
            [rank("a", "0-7", 8, None), rank("a", "0-7", 8, None), rank("b", "0-7", 8, None)];
        assert_eq!(share(&unbound), [4, 4, 8]);
        // Each to cores of its own.
        let bound = [rank("a", "0-3", 4, None), rank("a", "4-7", 4, None)];
        assert_eq!(share(&bound), [4, 4]);
        // More ranks than cores.
        let many = vec![rank("a", "0-1", 2, None); 3];
        assert_eq!(share(&many), [1, 1, 1]);
        // What was asked for.
        assert_eq!(share(&[rank("a", "0-1", 2, Some(5)), rank("a", "0-1", 2, None)]), [5, 1]);
    }
}
