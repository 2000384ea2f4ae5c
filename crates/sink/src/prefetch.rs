/// Of the processors at hand; a larger one is fetched more than once, which costs next to nothing.
const CACHE_LINE_BYTES: usize = 64;

/// Has the processor fetch all of `what` at once, where it would wait for one line of memory after the other.
pub fn prefetch<T: ?Sized>(what: &T) {
    let first = std::ptr::from_ref(what).cast::<u8>();
    for offset in (0..size_of_val(what)).step_by(CACHE_LINE_BYTES) {
        branches::prefetch_read_data::<_, 0>(first.wrapping_add(offset));
    }
}
