fn main() {
    let _ = spmd::local(2, |world| {
        let request = world.isend(vec![1, 2, 3], 1)?;
        request.cancel()?;
        Ok(())
    });
}
