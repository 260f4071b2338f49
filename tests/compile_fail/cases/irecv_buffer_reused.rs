fn main() {
    let _ = spmd::local(2, |world| {
        let values = vec![0_u8; 4];
        let request = world.irecv(values, 0)?;
        println!("{values:?}");
        request.wait()?;
        Ok(())
    });
}
