//! Counts what each thread allocates: the system's allocator with a sum beside it. The only unsafe code here; it must
//! allocate nothing itself.

#![allow(unsafe_code, reason = "the trait of allocators is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocated and not freed, as far as this thread did both; negative where it freed what another had allocated.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The allocator; see [`crate::counted`].
#[derive(Debug)]
pub struct Counting;

/// The most bytes that a function has allocated at any moment, on this thread.
pub(crate) fn peak(run: impl FnOnce()) -> usize {
    NOW.set(0);
    PEAK.set(0);
    run();
    PEAK.get().unsigned_abs()
}

fn count(change: isize) {
    // The thread may be ending.
    let _ = NOW.try_with(|now| {
        now.set(now.get().saturating_add(change));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

fn size(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(size(bytes).saturating_sub(size(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, bytes) }
    }
}
