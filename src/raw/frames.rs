//! How deep the stack is, where addresses do not say: under Miri.

unsafe extern "Rust" {
    /// Miri's own: how many frames the stack has.
    safe fn miri_backtrace_size(flags: u64) -> usize;
}

/// How many frames the stack has.
pub(crate) fn frames() -> usize {
    miri_backtrace_size(0)
}
