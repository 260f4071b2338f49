fn main() {
    let _ = spmd::local(2, |world| {
        world.send(&[String::from("text")], 0)?;
        world.send(&[vec![1_u8]], 0)?;
        world.send(&[Box::new(1_u8)], 0)?;
        Ok(())
    });
}
