//! What crosses the border to C++: borrowed bytes in, owned buffers out, a code and an error text.
//! No panic crosses it: every export runs its body inside `guarded`.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

/// Bytes that the caller owns for the length of the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bytes {
    data: *const u8,
    size: usize,
}

impl Bytes {
    /// # Safety
    /// `data` must point to `size` readable bytes, or `size` must be 0.
    pub unsafe fn slice<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            &[]
        } else {
            std::slice::from_raw_parts(self.data, self.size)
        }
    }

    /// # Safety
    /// As `slice`.
    pub unsafe fn text<'a>(self, what: &str) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.slice())
            .map_err(|e| Failure::invalid(format!("{what} is no UTF-8 at byte {}", e.valid_up_to())))
    }
}

/// # Safety
/// `data` must point to `count` readable values, or `count` must be 0.
pub unsafe fn values<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, count)
    }
}

/// Bytes that this library allocated; given back by `baton_buffer_free`.
#[repr(C)]
pub struct Buffer {
    data: *mut u8,
    size: usize,
}

impl Buffer {
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let boxed = bytes.into_boxed_slice();
        let size = boxed.len();
        Buffer { data: Box::into_raw(boxed) as *mut u8, size }
    }

    pub fn from_ids(ids: &[u32]) -> Self {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for id in ids {
            bytes.extend_from_slice(&id.to_ne_bytes());
        }
        Self::from_vec(bytes)
    }

    /// # Safety
    /// The buffer must come from `from_vec` and not have been freed.
    pub unsafe fn free(self) {
        if !self.data.is_null() {
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.data, self.size)));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    Invalid = 1,
    Internal = 2,
    Exhausted = 3,
    TooLong = 4,
}

#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Self {
        Failure { code: Code::Invalid, message: message.into() }
    }
    pub fn exhausted(message: impl Into<String>) -> Self {
        Failure { code: Code::Exhausted, message: message.into() }
    }
    pub fn too_long(message: impl Into<String>) -> Self {
        Failure { code: Code::TooLong, message: message.into() }
    }
}

static HOOK: Once = Once::new();

/// Runs `body`; an error or a panic becomes a code and a text in `error` (freed by the caller).
///
/// # Safety
/// `error` must be writable.
pub unsafe fn guarded(error: *mut Buffer, body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    // The default hook would print a panic to stderr; here it is returned instead.
    HOOK.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
                .unwrap_or_else(|| "unknown".to_string());
            Failure { code: Code::Internal, message: format!("panic in the text library: {what}") }
        }
    };
    *error = Buffer::from_vec(failure.message.into_bytes());
    failure.code as i32
}
