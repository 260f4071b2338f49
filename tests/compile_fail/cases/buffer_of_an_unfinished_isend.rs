fn main() {
    let _ = spmd::local(2, |world| {
        let mut values = vec![1.0, 2.0];
        let request = world.isend(values, 1 - world.rank())?;
        values[0] = 3.0;
        request.wait()?;
        Ok(())
    });
}
