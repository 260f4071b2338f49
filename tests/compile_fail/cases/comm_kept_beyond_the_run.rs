use std::cell::Cell;

thread_local! {
    static KEPT: Cell<Option<&'static spmd::Comm>> = const { Cell::new(None) };
}

fn main() {
    let _ = spmd::local(2, |world| {
        KEPT.set(Some(world));
        Ok(())
    });
}
