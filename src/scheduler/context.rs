//! What the workers are.

/// The smallest stack of a worker, in bytes. Its own code took 16 to 32 KiB in a debug build.
const LEAST_STACK: usize = 64 << 10;

/// What kind of workers a pool has, and what they are like.
///
/// Python: the `context` of `Pool` with its start methods, and `multiprocessing.dummy`. Here workers
/// are threads, so nothing is pickled and nothing is copied; the other kind is for debugging.
///
/// ```
/// use parpool::{Context, Pool};
///
/// let threads = Context::threads().name("solver").stack_size(4 << 20);
/// let pool = Pool::builder().processes(2).context(threads).build()?;
/// let name = pool.apply(|| std::thread::current().name().map(str::to_owned), ())?;
/// assert!(name.unwrap().starts_with("solver-"));
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub(crate) serial: bool,
    pub(crate) name: String,
    pub(crate) stack_size: Option<usize>,
    #[cfg(feature = "pin")]
    pub(crate) pin: bool,
}

impl Context {
    /// Threads of this process. The default.
    ///
    /// ```
    /// use parpool::{Context, Pool};
    ///
    /// let pool = Pool::builder().context(Context::threads()).build()?;
    /// let here = std::thread::current().id();
    /// assert_ne!(pool.apply(|| std::thread::current().id(), ())?, here);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn threads() -> Self {
        Context {
            serial: false,
            name: "parpool".to_owned(),
            stack_size: None,
            #[cfg(feature = "pin")]
            pin: false,
        }
    }

    /// No threads: every verb runs on the thread that calls it, `apply_async` before it returns.
    ///
    /// The types and the results are those of a pool of one, so a program can be debugged, profiled
    /// and measured against itself by changing one line. The settings of threads have no effect.
    ///
    /// ```
    /// use parpool::{Context, Pool};
    ///
    /// let pool = Pool::builder().context(Context::serial()).build()?;
    /// let here = std::thread::current().id();
    /// assert_eq!(pool.map(|_| std::thread::current().id(), 0..3)?, [here; 3]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn serial() -> Self {
        Context { serial: true, ..Context::threads() }
    }

    /// What thread names begin with; `parpool` if not set. Threads are called
    /// `name-pool-worker`, both counted from 0; Linux shows the first 15 bytes.
    ///
    /// ```
    /// use parpool::{Context, Pool};
    ///
    /// let pool = Pool::builder().processes(1).context(Context::threads().name("io")).build()?;
    /// let name = pool.apply(|| std::thread::current().name().unwrap().to_owned(), ())?;
    /// assert!(name.starts_with("io-") && name.ends_with("-0"));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The size of each worker's stack in bytes; the default of `std::thread` if not set. Less than 64 KiB are
    /// taken for 64 KiB, which is what the pool needs for itself; a system that cannot give as much as is asked for
    /// fails the pool with [`Error::Start`](crate::Error::Start).
    ///
    /// A wait inside a task runs other tasks on top of it, so deep recursion of tasks needs room.
    ///
    /// ```
    /// use parpool::{Context, Pool};
    ///
    /// fn depth(n: u32) -> u32 {
    ///     if n == 0 { 0 } else { 1 + std::hint::black_box(depth(n - 1)) }
    /// }
    ///
    /// let deep = Context::threads().stack_size(64 << 20);
    /// let pool = Pool::builder().processes(1).context(deep).build()?;
    /// assert_eq!(pool.apply(depth, (100_000,))?, 100_000);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    #[must_use]
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes.max(LEAST_STACK));
        self
    }

    /// Binds each worker to one core, round robin, as far as the system lets it; not bound if not
    /// set. Needs the feature `pin`.
    ///
    /// Worth a try for short maps on a machine the pool has to itself; harmful on a shared one.
    #[cfg(feature = "pin")]
    #[cfg_attr(docsrs, doc(cfg(feature = "pin")))]
    #[must_use]
    pub fn pin_to_cores(mut self) -> Self {
        self.pin = true;
        self
    }
}

impl Default for Context {
    fn default() -> Self {
        Context::threads()
    }
}
