"""How to speak to a device: Modbus/SunSpec, MQTT and HTTP drivers behind one protocol."""
