use std::sync::Arc;

fn main() {
    let _ = spmd::local(2, |world| {
        let mut shared: Arc<[u8]> = Arc::from([0; 4]);
        world.recv_into(&mut shared, 0)?;
        Ok(())
    });
}
