fn main() {
    let _ = spmd::local(2, |world| {
        let mut buffer = [0; 4];
        world.scope(|s| {
            let receiving = s.irecv(&mut buffer, 1)?;
            buffer[0] = 1;
            receiving.wait()?;
            Ok(())
        })?;
        Ok(())
    });
}
