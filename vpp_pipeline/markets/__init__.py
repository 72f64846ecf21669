"""What comes in from outside: prices, weather and the recorded data the package ships."""
