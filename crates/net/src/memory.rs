//! What the allocator keeps for itself.

/// Gives memory that has been freed back to the kernel, wherever in the heap it lies. The allocator does that by itself only at a heap's end: what
/// is needed for a moment would count for ever where something that stays was allocated after it. Takes some milliseconds for each 100 MB.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and changes only the allocator's own lists, under the allocator's locks.
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
