use std::sync::Mutex;

static KEPT: Mutex<Option<spmd::Comm>> = Mutex::new(None);

fn main() {
    let _ = spmd::local(2, |world| {
        *KEPT.lock().unwrap() = Some(world.dup()?);
        Ok(())
    });
}
