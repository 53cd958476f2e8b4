//! The MPI calls that go by return codes: sends and receives that do not block. The only `unsafe` code of the crate.
//!
//! rsmpi has these calls too, but throws their codes away, and lends a buffer to a request for a scope
//! only; here a request owns its buffer. Each function checks what it is given, so that nothing that a
//! caller does can be unsound.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::os::raw::c_int;
use std::rc::Rc;

use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::{Communicator, SimpleCommunicator};

/// What an MPI call returned instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(c_int);

impl Code {
    /// MPI's own words for it.
    pub(crate) fn text(self) -> String {
        // MPI_MAX_ERROR_STRING is 256 in Open MPI, 512 in MPICH and 1024 in those made from it.
        let mut text = [0u8; 8192];
        let mut len: c_int = 0;
        // SAFETY: the buffer is longer than any MPI_MAX_ERROR_STRING, and `len` is written before it is
        // read. MPI may be asked for the text of any code; for one it does not know it returns an error
        // and leaves `len` as it is.
        unsafe { ffi::MPI_Error_string(self.0, text.as_mut_ptr().cast(), &mut len) };
        let len = usize::try_from(len).unwrap_or(0).min(text.len());
        match len {
            0 => format!("MPI error {}", self.0),
            len => String::from_utf8_lossy(&text[..len]).into_owned(),
        }
    }
}

fn check(code: c_int) -> Result<(), Code> {
    // MPI_SUCCESS is 0 in every MPI: the standard says so.
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

/// Whether this thread is the one that initialized MPI, which must have happened.
pub(crate) fn is_main_thread() -> bool {
    assert!(mpi::is_initialized() && !mpi::is_finalized());
    let mut flag: c_int = 0;
    // SAFETY: MPI is up, and `flag` is a place for the answer.
    unsafe { ffi::MPI_Is_thread_main(&mut flag) };
    flag != 0
}

/// A communicator of this pool's own, whose errors are returned.
///
/// Neither `Send` nor `Sync`, whatever a handle is in the MPI at hand: all calls are made by one thread.
pub(crate) struct Comm {
    /// `None` once it was left to MPI.
    inner: Option<SimpleCommunicator>,
    size: c_int,
    one_thread: PhantomData<*const ()>,
}

impl Comm {
    /// Takes `inner`, which nobody else uses.
    pub(crate) fn new(inner: SimpleCommunicator) -> Result<Self, Code> {
        let size = inner.size();
        // SAFETY: `inner` is a live communicator, and the handler is one that MPI defines.
        let code =
            unsafe { ffi::MPI_Comm_set_errhandler(inner.as_raw(), ffi::RSMPI_ERRORS_RETURN) };
        check(code).map(|()| Comm { inner: Some(inner), size, one_thread: PhantomData })
    }

    pub(crate) fn rank(&self) -> usize {
        self.inner().rank() as usize
    }

    fn inner(&self) -> &SimpleCommunicator {
        self.inner.as_ref().expect("nothing is sent or received after the end")
    }

    pub(crate) fn size(&self) -> usize {
        self.size as usize
    }

    /// Begins to send `bytes` to rank `to`.
    pub(crate) fn send(&self, to: usize, bytes: Rc<Vec<u8>>) -> Result<Sending, Code> {
        assert!(to < self.size());
        let count = c_int::try_from(bytes.len()).expect("the wire format refuses longer messages");
        let mut request = null_request();
        // SAFETY: the communicator is live, `to` is a rank of it, and `bytes` has `count` bytes, which
        // stay where they are and as they are until the request is done: `Sending` keeps them, and
        // nobody can change what is in an `Rc` that has other owners or is owned by `Sending`.
        let code = unsafe {
            ffi::MPI_Isend(
                bytes.as_ptr().cast(),
                count,
                ffi::RSMPI_UINT8_T,
                to as c_int,
                TAG,
                self.inner().as_raw(),
                &mut request,
            )
        };
        check(code).map(|()| Sending { request, bytes: Some(bytes) })
    }

    /// Begins to receive the next message from rank `from`, or from any, if one has arrived.
    pub(crate) fn receive(&self, from: Option<usize>) -> Result<Option<Receiving>, Code> {
        assert!(from.is_none_or(|from| from < self.size()));
        // SAFETY: the statics are constants of the MPI library.
        let (any, none) = unsafe { (ffi::RSMPI_ANY_SOURCE, ffi::RSMPI_MESSAGE_NULL) };
        let source = from.map_or(any, |from| from as c_int);
        let (mut flag, mut message) = (0, none);
        // SAFETY: a status is a struct of integers, for which zeros are values.
        let mut status: ffi::MPI_Status = unsafe { std::mem::zeroed() };
        // SAFETY: the communicator is live, `source` is a rank of it or the wildcard, and the others are
        // places for what the call tells.
        let code = unsafe {
            let comm = self.inner().as_raw();
            ffi::MPI_Improbe(source, TAG, comm, &mut flag, &mut message, &mut status)
        };
        check(code)?;
        if flag == 0 {
            return Ok(None);
        }
        let mut count: c_int = 0;
        // SAFETY: the status is that of the message that was just found.
        check(unsafe { ffi::MPI_Get_count(&status, ffi::RSMPI_UINT8_T, &mut count) })?;
        let from = status.MPI_SOURCE as usize;
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
        let mut request = null_request();
        // SAFETY: the message is the one that was found, for this call alone. `bytes` has room for its
        // `count` bytes and stays where it is until the request is done: `Receiving` keeps it, and lets
        // nobody at it.
        let code = unsafe {
            let room = bytes.as_mut_ptr().cast();
            ffi::MPI_Imrecv(room, count, ffi::RSMPI_UINT8_T, &mut message, &mut request)
        };
        check(code).map(|()| Some(Receiving { from, request, bytes: Some(bytes) }))
    }

    /// Leaves the communicator to MPI: to free it takes all its ranks, and one is gone.
    pub(crate) fn leave(&mut self) {
        std::mem::forget(self.inner.take());
    }
}

const TAG: c_int = 0;

fn null_request() -> ffi::MPI_Request {
    // SAFETY: the static is a constant of the MPI library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// Whether `request` is done. After an error it is not to be asked again.
fn test(request: &mut ffi::MPI_Request) -> Result<bool, Code> {
    let mut flag = 0;
    // SAFETY: the request is live or null, the latter of which is done. A status that is not wanted may
    // be the constant that says so.
    check(unsafe { ffi::MPI_Test(request, &mut flag, ffi::RSMPI_STATUS_IGNORE) })?;
    Ok(flag != 0)
}

/// A message on its way out.
pub(crate) struct Sending {
    request: ffi::MPI_Request,
    /// `None` once MPI is done with it.
    bytes: Option<Rc<Vec<u8>>>,
}

impl Sending {
    /// Whether it has been sent; its bytes are let go then.
    pub(crate) fn is_done(&mut self) -> Result<bool, Code> {
        if self.bytes.is_some() && test(&mut self.request)? {
            self.bytes = None;
        }
        Ok(self.bytes.is_none())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // MPI may read them for as long as the process lives: the other side is gone or failed.
        std::mem::forget(self.bytes.take());
    }
}

/// A message on its way in.
pub(crate) struct Receiving {
    pub(crate) from: usize,
    request: ffi::MPI_Request,
    /// `None` once it was taken.
    bytes: Option<Vec<u8>>,
}

impl Receiving {
    /// The message, once all of it is there.
    pub(crate) fn take(&mut self) -> Result<Option<Vec<u8>>, Code> {
        if self.bytes.is_some() && test(&mut self.request)? {
            return Ok(self.bytes.take());
        }
        Ok(None)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // MPI may write to them for as long as the process lives.
        std::mem::forget(self.bytes.take());
    }
}
