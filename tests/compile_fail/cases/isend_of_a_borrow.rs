fn main() {
    let _ = spmd::local(2, |world| {
        let values = vec![1, 2, 3];
        world.isend(&values, 1)?.wait()?;
        Ok(())
    });
}
