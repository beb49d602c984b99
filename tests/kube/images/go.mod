module mizzen.test/images

go 1.24
