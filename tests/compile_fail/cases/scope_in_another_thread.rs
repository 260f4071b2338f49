fn main() {
    let _ = spmd::local(2, |world| {
        let values = [1, 2];
        world.scope(|s| {
            std::thread::scope(|threads| {
                threads.spawn(|| s.isend(&values, 1).map(drop));
            });
            Ok(())
        })?;
        Ok(())
    });
}
