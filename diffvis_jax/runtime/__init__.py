"""An encoder beside a control loop: frames in, newest features out, deadlines kept."""
