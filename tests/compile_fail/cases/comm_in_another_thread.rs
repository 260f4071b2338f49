fn main() {
    let _ = spmd::local(2, |world| {
        let mine = world.dup()?;
        std::thread::spawn(move || mine.barrier()).join().unwrap()?;
        Ok(())
    });
}
